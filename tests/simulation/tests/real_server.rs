//! The model of the bus against a real nats-server: the same operations have the same results.

use std::time::Duration;

use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store, UpdateErrorKind};
use async_nats::jetstream::{self, stream};
use async_nats::{Client, HeaderMap};
use futures::{FutureExt as _, StreamExt as _};
use qscale_simulation::bus::{Ack, Bucket, Conflict, Stream, Subscribers};
use qscale_tests::NatsServer;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Against hangs.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Operations on each store.
const OPERATIONS: u32 = 400;

async fn connect(server: &NatsServer) -> Client {
    async_nats::connect(server.url()).await.expect("connected")
}

async fn create(store: &Store, key: &str, value: u32) -> Result<u64, Conflict> {
    match store.create(key, value.to_string().into()).await {
        Ok(revision) => Ok(revision),
        Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Err(Conflict),
        Err(error) => panic!("{error}"),
    }
}

async fn update(store: &Store, key: &str, value: u32, expected: u64) -> Result<u64, Conflict> {
    match store.update(key, value.to_string().into(), expected).await {
        Ok(revision) => Ok(revision),
        Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Err(Conflict),
        Err(error) => panic!("{error}"),
    }
}

async fn entry(store: &Store, key: &str) -> Option<(u64, u32)> {
    let entry = store.entry(key).await.expect("readable")?;
    let value = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok());
    (entry.operation == Operation::Put).then(|| (entry.revision, value.expect("a number")))
}

#[tokio::test]
async fn buckets_have_the_same_revisions_and_conflicts() {
    let server = NatsServer::start();
    let jetstream = jetstream::new(connect(&server).await);
    let store = jetstream.create_key_value(jetstream::kv::Config { bucket: "b".into(), ..Default::default() }).await.expect("created");
    let (mut model, mut rng, mut conflicts) = (Bucket::default(), SmallRng::seed_from_u64(1), 0);
    for value in 0..OPERATIONS {
        let key = ["a", "b", "c"][rng.random_range(0..3)];
        match rng.random_range(0..6) {
            0 => assert_eq!(store.put(key, value.to_string().into()).await.expect("written"), model.put(key, value)),
            1 => assert_eq!(create(&store, key, value).await, model.create(key, value), "create {key}"),
            2 => {
                store.delete(key).await.expect("deleted");
                model.delete(key);
            }
            3 => assert_eq!(entry(&store, key).await, model.entry(key), "entry {key}"),
            _ => {
                let expected = model.entry(key).map_or(0, |(revision, _)| revision).saturating_sub(rng.random_range(0..2));
                let updated = model.update(key, value, expected);
                conflicts += u32::from(updated.is_err());
                assert_eq!(update(&store, key, value, expected).await, updated, "update {key} over {expected}");
            }
        }
    }
    assert!(conflicts > 20, "{conflicts}");
}

#[tokio::test]
async fn a_stream_stores_an_id_once_within_its_window() {
    const WINDOW: Duration = Duration::from_secs(100);
    let server = NatsServer::start();
    let jetstream = jetstream::new(connect(&server).await);
    let config = stream::Config { name: "s".into(), subjects: vec!["s.>".into()], duplicate_window: WINDOW, ..Default::default() };
    jetstream.create_stream(config).await.expect("created");
    let (mut model, mut rng) = (Stream::new(WINDOW.as_millis() as u64), SmallRng::seed_from_u64(2));
    for _ in 0..OPERATIONS {
        let id = rng.random_range(0..OPERATIONS / 2).to_string();
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id.as_str());
        let sent = jetstream.publish_with_headers("s.x", headers, "".into()).await.expect("sent").await.expect("acknowledged");
        let real = Ack { sequence: sent.sequence, duplicate: sent.duplicate };
        assert_eq!(model.append(&id, (), 0), real, "id {id}");
    }
    let state = jetstream.get_stream("s").await.expect("found").cached_info().state.messages;
    assert_eq!(state, model.messages().len() as u64);
    assert!(!model.append("0", (), WINDOW.as_millis() as u64 + 1).duplicate, "an id is free after the window");
}

#[tokio::test]
async fn every_subscriber_but_one_member_of_each_group_gets_a_message_once_and_in_order() {
    const MESSAGES: usize = 200;
    let server = NatsServer::start();
    let groups = [None, None, Some("g"), Some("g"), Some("h")];
    let mut model = Subscribers::default();
    let mut subscriptions = Vec::new();
    for (index, group) in groups.into_iter().enumerate() {
        let client = connect(&server).await;
        let subscription = match group {
            None => client.subscribe("x").await,
            Some(group) => client.queue_subscribe("x", group.to_owned()).await,
        };
        let end = client.subscribe(format!("end.{index}")).await.expect("subscribed");
        client.flush().await.expect("flushed");
        // The client itself waits for the server only with a request; a message to itself has passed the server.
        client.publish(format!("end.{index}"), "".into()).await.expect("sent");
        subscriptions.push((client, end, subscription.expect("subscribed")));
        model.add(index, group);
    }
    for (_, end, _) in &mut subscriptions {
        assert!(tokio::time::timeout(TIMEOUT, end.next()).await.expect("in time").is_some());
    }
    let publisher = connect(&server).await;
    for number in 0..MESSAGES {
        publisher.publish("x", number.to_string().into()).await.expect("sent");
    }
    for index in 0..groups.len() {
        publisher.publish(format!("end.{index}"), "".into()).await.expect("sent");
    }
    let mut real: Vec<Vec<usize>> = Vec::new();
    for (_, end, subscription) in &mut subscriptions {
        // It follows all messages before it on the same connection.
        assert!(tokio::time::timeout(TIMEOUT, end.next()).await.expect("in time").is_some());
        let mut received = Vec::new();
        while let Some(Some(message)) = tokio::task::unconstrained(subscription.next()).now_or_never() {
            received.push(std::str::from_utf8(&message.payload).expect("text").parse().expect("a number"));
        }
        real.push(received);
    }
    let mut rng = SmallRng::seed_from_u64(3);
    let mut modelled: Vec<Vec<usize>> = vec![Vec::new(); groups.len()];
    for number in 0..MESSAGES {
        model.receivers(|_| true, &mut rng).into_iter().for_each(|receiver| modelled[receiver].push(number));
    }
    for received in [real, modelled] {
        let all: Vec<usize> = (0..MESSAGES).collect();
        let [first, second, .., alone] = &received[..] else { panic!("{received:?}") };
        assert!([first, second, alone].into_iter().all(|numbers| *numbers == all), "{received:?}");
        assert!(received.iter().all(|numbers| numbers.is_sorted()), "in order");
        let mut together = [received[2].clone(), received[3].clone()].concat();
        together.sort_unstable();
        assert_eq!(together, all);
        assert!(!received[2].is_empty() && !received[3].is_empty(), "both members get some");
    }
    assert!(model.receivers(|node| node > 1, &mut rng).len() == 2, "those without a connection get nothing");
}
