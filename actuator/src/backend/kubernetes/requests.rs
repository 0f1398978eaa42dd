//! Requests to the API server: lists of any length, and what an error means for a backend.

use kube::api::ListParams;
use kube::{Api, Resource};

use crate::backend::BackendError;

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Meaning of a failed request.
pub(super) fn backend_error(error: kube::Error) -> BackendError {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 404 | 405 | 413 | 422) => BackendError::Invalid(status.message),
        kube::Error::Api(status) => BackendError::Unavailable(format!("{} ({})", status.message, status.code)),
        error => BackendError::Unavailable(format!("{:#}", anyhow::Error::new(error))),
    }
}

/// All objects of a kind, read page by page, without the managed fields, which are a large part of them.
pub(super) async fn pages<K>(api: &Api<K>) -> Result<Vec<K>, kube::Error>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let (mut found, mut params) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let page = api.list(&params).await?;
        found.extend(page.items.into_iter().map(|mut object| {
            object.meta_mut().managed_fields = None;
            object
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(found),
        }
    }
}
