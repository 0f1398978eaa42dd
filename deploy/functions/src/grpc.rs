//! Unary gRPC methods as routes of an HTTP router. Owns decoding requests and encoding replies; must not know method names.

use std::future::Future;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use tonic::codegen::{BoxFuture, Service};
use tonic_prost::ProstCodec;

use crate::request_error::RequestError;

/// Route of a unary method implemented by `handler`.
pub fn unary<Q, R, H, F>(handler: H) -> MethodRouter
where
    Q: prost::Message + Default + 'static,
    R: prost::Message + Default + 'static,
    H: Fn(Q) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<R, RequestError>> + Send + 'static,
{
    post(move |request: Request| {
        let method = Method(handler.clone());
        async move { tonic::server::Grpc::new(ProstCodec::<R, Q>::default()).unary(method, request).await }
    })
}

/// Replies to an unknown path in the caller's protocol.
pub async fn not_found(request: Request) -> Response {
    let is_grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let path = request.uri().path();
    if is_grpc {
        tonic::Status::unimplemented(format!("this function has no method {path}")).into_http::<axum::body::Body>()
    } else {
        (StatusCode::NOT_FOUND, format!("this function has no page {path}\n")).into_response()
    }
}

/// Adapts a handler to tonic.
struct Method<H>(H);

impl<Q, R, H, F> Service<tonic::Request<Q>> for Method<H>
where
    H: Fn(Q) -> F,
    F: Future<Output = Result<R, RequestError>> + Send + 'static,
{
    type Response = tonic::Response<R>;
    type Error = tonic::Status;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let answer = (self.0)(request.into_inner());
        Box::pin(async move { answer.await.map(tonic::Response::new).map_err(tonic::Status::from) })
    }
}
