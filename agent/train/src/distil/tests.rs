use qscale_dqn::pretrained::pretrained;
use qscale_rl::device::cpu;

use super::*;

fn options() -> DistilOptions {
    DistilOptions { depth: 4, worlds: 12, rounds: 2, ..DistilOptions::default() }
}

fn distilled(options: &DistilOptions) -> Result<Distillation, DistilError> {
    distil(pretrained(), options, &cpu(), |_| {}, &AtomicBool::new(false))
}

#[test]
fn a_tree_agrees_with_its_network_in_most_states_and_is_read_back() {
    let found = distilled(&options()).expect("a tree");
    assert!(found.tree.depth() <= 4 && found.tree.leaves() > 2, "{}", found.tree);
    assert_eq!((found.rounds.len(), found.tree.header().model.clone()), (2, pretrained().fingerprint()));
    assert!(found.rounds[1].samples > found.rounds[0].samples, "{:?}", found.rounds);
    let Fidelity { of_model_states, of_tree_states, of_default, model, tree } = found.fidelity;
    for (agreement, least) in [(of_model_states, 0.6), (of_tree_states, 0.5), (of_default, 0.1)] {
        let share = agreement.share().expect("decisions");
        assert!(agreement.decisions > 100 && (least..=1.0).contains(&share), "{:?}", found.fidelity);
    }
    // The same worlds, of the same lengths.
    assert_eq!((model.ticks, of_model_states.decisions), (tree.ticks, of_default.decisions));
    assert_eq!(DecisionTree::parse(found.tree.to_string().as_bytes()), Ok(found.tree));
}

#[test]
fn the_result_depends_on_the_seed_and_not_on_the_threads() {
    let once = distilled(&DistilOptions { rounds: 1, ..options() }).expect("a tree");
    let threads = NonZeroUsize::new(3).expect("not zero");
    assert_eq!(once, distilled(&DistilOptions { rounds: 1, threads, ..options() }).expect("a tree"));
    let other = distilled(&DistilOptions { rounds: 1, seed: 2, ..options() }).expect("a tree");
    assert_ne!(once.tree, other.tree);
}

#[test]
fn options_out_of_range_and_a_stop_are_errors() {
    for (options, expected) in [
        (DistilOptions { depth: 13, ..options() }, "depth = 13, must be from 1 to 12"),
        (DistilOptions { worlds: 0, ..options() }, "worlds = 0"),
        (DistilOptions { rounds: 21, ..options() }, "rounds = 21"),
    ] {
        assert!(distilled(&options).expect_err("refused").to_string().contains(expected), "{expected}");
    }
    let stopped = distil(pretrained(), &options(), &cpu(), |_| {}, &AtomicBool::new(true));
    assert!(matches!(stopped, Err(DistilError::Stopped)));
}
