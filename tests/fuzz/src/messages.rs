//! Messages of the contract, and values of key-value buckets.

use qscale_common::contract::{Action, Load, MAX_PAYLOAD, Message, Outcome, Reward, State, decode, parse};
use qscale_common::control::Control;

/// A message that is accepted is read back after it was written, on its own subject; every policy can decide for a State that is accepted.
pub fn messages(data: &[u8]) {
    check::<State>(data);
    if let Ok(state) = parse::<State>(data) {
        crate::rules::decide(&state);
    }
    check::<Action>(data);
    check::<Outcome>(data);
    check::<Reward>(data);
    check::<Load>(data);
    let control = Control::from_json(data);
    assert!(!control.malformed || control.frozen, "a request that cannot be read counts as a freeze");
    drop(control.provenance());
    if !control.malformed {
        assert_eq!(Control::from_json(&control.to_json()), control);
    }
}

fn check<M: Message + std::fmt::Debug>(data: &[u8]) {
    match parse::<M>(data) {
        Ok(message) => {
            // Measurements are written with four digits, so that the second form, not the first, equals the third.
            let written = message.encode();
            let read: M = decode(&message.subject(), &written).expect("a valid message can be written");
            assert_eq!(read.encode(), written);
            assert_eq!(read.unique_id(), message.unique_id());
            assert!(data.len() <= MAX_PAYLOAD);
        }
        Err(error) => assert!(!error.kind().is_empty() && !error.to_string().is_empty()),
    }
}
