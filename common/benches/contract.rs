//! Encode and decode of each message of the contract: the golden ones that hold every field.

use divan::Bencher;
use divan::counter::BytesCount;
use qscale_common::contract::{Action, Load, Message, Outcome, Reward, State, decode, parse};

fn main() {
    divan::main();
}

/// A message with its golden text.
trait Golden: Message {
    const TEXT: &'static str;
}

impl Golden for State {
    const TEXT: &'static str = include_str!("../tests/golden/state.full.json");
}

impl Golden for Reward {
    const TEXT: &'static str = include_str!("../tests/golden/reward.full.json");
}

impl Golden for Action {
    const TEXT: &'static str = include_str!("../tests/golden/action.full.json");
}

impl Golden for Outcome {
    const TEXT: &'static str = include_str!("../tests/golden/outcome.full.json");
}

impl Golden for Load {
    const TEXT: &'static str = include_str!("../tests/golden/load.full.json");
}

fn golden<M: Golden>() -> M {
    parse(M::TEXT.as_bytes()).expect("the golden messages are valid")
}

#[divan::bench(types = [State, Reward, Action, Outcome, Load])]
fn encode_message<M: Golden>(bencher: Bencher) {
    let message: M = golden();
    bencher.counter(BytesCount::new(message.encode().len())).bench_local(|| divan::black_box(&message).encode());
}

#[divan::bench(types = [State, Reward, Action, Outcome, Load])]
fn decode_message<M: Golden>(bencher: Bencher) {
    let message: M = golden();
    let (subject, body) = (message.subject(), message.encode());
    bencher.counter(BytesCount::new(body.len())).bench_local(|| decode::<M>(divan::black_box(&subject), divan::black_box(&body)));
}
