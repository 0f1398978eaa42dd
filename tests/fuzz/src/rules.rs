//! Policies: parameters, and decisions on any valid States.

use std::sync::LazyLock;

use qscale_common::contract::{Message as _, State};
use qscale_common::fixtures::any_state;
use qscale_dqn::by_name;
use qscale_dqn::registry::names;
use qscale_policies::{Memory, Policy};
use qscale_rl::device::cpu;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use serde_json::Value;

use crate::input::Input;

/// Most States of one input.
const MAX_STATES: usize = 40;

/// A line with the name of a policy and its parameters as JSON, then the bytes of States: no policy asks for the current allocation, or for one outside
/// the bounds of the State.
pub fn rules(data: &[u8]) {
    let (line, rest) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len()));
    let Ok(line) = std::str::from_utf8(line) else { return };
    let (name, params) = line.split_once(' ').unwrap_or((line, "null"));
    let Ok(params) = serde_json::from_str::<Value>(params) else { return };
    let Ok(policy) = by_name(name, &params, None, &cpu()) else { return };
    let (mut input, mut memory, mut rng) = (Input::new(rest.get(1..).unwrap_or_default()), Memory::default(), SmallRng::seed_from_u64(1));
    for _ in 0..MAX_STATES {
        if input.is_empty() {
            break;
        }
        let state: State = any_state(&mut input);
        check(&*policy, &state, &mut memory, &mut rng);
    }
}

/// Every policy with its default parameters decides for `state`, which is valid.
pub(crate) fn decide(state: &State) {
    static POLICIES: LazyLock<Vec<Box<dyn Policy>>> =
        LazyLock::new(|| names().map(|name| by_name(name, &Value::Null, None, &cpu()).expect("a policy")).collect());
    for policy in POLICIES.iter() {
        let (mut memory, mut rng) = (Memory::default(), SmallRng::seed_from_u64(1));
        check(&**policy, state, &mut memory, &mut rng);
        let next = State { tick: state.tick.next(), ..state.clone() };
        if next.check().is_ok() {
            check(&**policy, &next, &mut memory, &mut rng);
        }
    }
}

fn check(policy: &dyn Policy, state: &State, memory: &mut Memory, rng: &mut SmallRng) {
    if let Some(wanted) = policy.decide(state, memory, state.observed_at_ms, rng).wanted() {
        assert!(state.bounds.contain(wanted), "{} wants {wanted}, outside {:?}", policy.name(), state.bounds);
        assert_ne!(Some(wanted), state.allocation, "{} wants the current allocation", policy.name());
    }
}
