use proptest::prelude::*;
use qscale_common::fixtures::any_states;
use qscale_common::time::Timestamp;
use qscale_policies::{Memory, Policy as _};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::policy::TreePolicy;
use super::*;
use crate::fixtures;
use crate::observation::FEATURES;
use crate::policy::{Dqn, DqnParams};
use crate::pretrained::pretrained;

fn feature(name: &str) -> usize {
    FEATURES.iter().position(|feature| feature.name == name).expect("known")
}

fn leaf(name: &str) -> Box<TreeNode> {
    let action = Actions::new(ActionSet::Headroom, Scope::Joint).names().iter().position(|known| known == name).expect("known");
    Box::new(TreeNode::Leaf(TreeLeaf { action, samples: 40, equal: 30 }))
}

fn split(name: &str, at_most: f32, low: Box<TreeNode>, high: Box<TreeNode>) -> TreeNode {
    TreeNode::Split { feature: feature(name), at_most, low, high }
}

/// Header of a tree that imitates the bundled model.
pub(crate) fn header() -> TreeHeader {
    TreeHeader { model: pretrained().fingerprint(), action_set: ActionSet::Headroom, scope: Scope::Joint, violation_cost: None, seed: 1 }
}

fn tree_of(root: TreeNode) -> Result<DecisionTree, String> {
    DecisionTree::new(header(), root, pretrained())
}

/// A tree that adds a replica while requests fail, and otherwise distinguishes busy and idle functions.
fn tree() -> DecisionTree {
    let busy = split("cpu_mean_over_limit", 0.3, leaf("demand x1.3"), leaf("demand x2"));
    let calm = split("cpu_mean_over_limit", 0.1, leaf("keep"), Box::new(busy));
    tree_of(split("failed_share", 0.02, Box::new(calm), leaf("replicas +1"))).expect("valid")
}

fn decide(policy: &TreePolicy, state: &qscale_common::contract::State) -> qscale_policies::Decision {
    policy.decide(state, &mut Memory::default(), Timestamp(0), &mut SmallRng::seed_from_u64(0))
}

#[test]
fn text_is_read_back_exactly_and_shows_quantities() {
    let text = tree().to_string();
    let read = DecisionTree::parse(text.as_bytes()).expect("its own text");
    assert_eq!((&read, read.to_string()), (&tree(), text.clone()));
    assert_eq!((read.fingerprint(), read.leaves(), read.depth()), (tree().fingerprint(), 4, 3));
    for line in [
        "if failed_share <= 0.02",
        "# failed requests <= 2 %",
        "  if cpu_mean_over_limit <= 0.1",
        "# mean CPU / limit > 60 %",
        "      take demand x1.3, 30 of 40 samples",
        "# 25.0 % of all, 75.0 % equal to the model",
        "range rate ",
    ] {
        assert!(text.contains(line), "`{line}` in\n{text}");
    }
}

#[test]
fn comments_and_empty_lines_have_no_effect() {
    let text = tree().to_string();
    let bare: Vec<&str> = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim_end()).collect();
    assert_eq!(DecisionTree::parse(bare.join("\n\n").as_bytes()), Ok(tree()));
}

#[test]
fn an_invalid_text_is_refused_with_its_line() {
    let text = tree().to_string();
    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        DecisionTree::parse(text.replacen(from, to, 1).as_bytes()).expect_err(to).to_string()
    };
    let at = |part: &str| text.lines().position(|line| line.contains(part)).expect("a line") + 1;
    assert!(refused("qscale-tree 1", "qscale-tree 2").starts_with("line 1: not a decision tree"));
    for (from, to, expected) in [
        ("model = ", "model = x", "16 hexadecimal digits"),
        ("observation = 2", "observation = 1", "distil the model again"),
        ("violation_cost = default", "violation_cost = 5", "10 to 20000"),
        ("failed_share <=", "failed_shares <=", "a feature"),
        ("failed_share <= 0.02", "failed_share <= NaN", "finite"),
        ("  if cpu_mean_over_limit <= 0.1", "   if cpu_mean_over_limit <= 0.1", "after 2 spaces"),
        ("take demand x1.3", "take demand x1.35", "one of the actions keep; "),
        ("30 of 40 samples", "50 of 40 samples", "N at most M"),
        ("range rate", "range rates", "must be `range rate"),
    ] {
        let error = refused(from, to);
        assert!(error.contains(expected) && error.starts_with(&format!("line {}: ", at(from.trim()))), "{from} to {to}: {error}");
    }
    let cut = text.lines().take(at("take keep")).collect::<Vec<_>>().join("\n");
    let error = DecisionTree::parse(cut.as_bytes()).expect_err("it ends").to_string();
    assert!(error.contains("the file ends") && error.contains("`else`"), "{error}");
    assert!(DecisionTree::parse(format!("{text}more").as_bytes()).expect_err("more").to_string().contains("the end of the file"));
    assert_eq!(DecisionTree::parse(&vec![b' '; MAX_BYTES + 1]), Err(TreeError::Oversized(MAX_BYTES + 1)));
    assert!(DecisionTree::parse(b"qscale-tree 1\n\n\xff").expect_err("bytes").to_string().starts_with("line 3: not UTF-8"));
}

#[test]
fn a_deep_tree_is_refused_when_made_and_when_read() {
    let deep = |depth: u32| (0..depth).fold(*leaf("keep"), |tree, _| split("rate", 0.5, leaf("keep"), Box::new(tree)));
    let deepest = tree_of(deep(MAX_DEPTH)).expect("as deep as possible");
    assert_eq!(DecisionTree::parse(deepest.to_string().as_bytes()), Ok(deepest));
    assert!(tree_of(deep(MAX_DEPTH + 1)).expect_err("deeper").contains("12 conditions"));
    let rules: String = (0..20_000).map(|depth| format!("{}if rate <= 0.5\n", " ".repeat(2 * depth.min(20)))).collect();
    let text = tree().to_string();
    let header = text.split("if failed").next().expect("a header");
    let error = DecisionTree::parse(format!("{header}{rules}").as_bytes()).expect_err("deeper").to_string();
    assert!(error.contains("deeper than 12 conditions"), "{error}");
}

#[test]
fn a_decision_names_the_rules_that_led_to_it() {
    let mut state = fixtures::busy(0.8);
    state.age.requests_ms = Some(0);
    let policy = TreePolicy::new(tree());
    let qscale_policies::Decision::Want { reason, .. } = decide(&policy, &state) else { panic!("a busy function grows") };
    assert!(reason.starts_with("`demand x2` by the rules: failed requests <= 2 % (0 %), mean CPU / limit > 60 % (80 %)"), "{reason}");
    assert!(reason.contains("75 % of 40 samples"), "{reason}");
    state.windows.tick.failed_share = Some(0.5);
    let decision = decide(&policy, &state);
    assert_eq!(decision.wanted().map(|wanted| wanted.replicas.0), Some(3), "{decision:?}");
    assert!(policy.model().contains(&pretrained().fingerprint()) && policy.name() == "tree");
}

#[test]
fn an_action_that_cannot_be_taken_is_replaced() {
    let mut state = fixtures::busy(0.8);
    state.windows.tick.failed_share = Some(0.5);
    state.bounds.replicas =
        qscale_common::policy::Range::new(state.bounds.replicas.min(), qscale_common::units::Replicas(2)).expect("ordered");
    let decision = decide(&TreePolicy::new(tree()), &state);
    let (qscale_policies::Decision::Want { reason, .. } | qscale_policies::Decision::Hold { reason, .. }) = &decision;
    assert!(reason.starts_with("`keep` in place of `replicas +1` (same allocation as another action) by the rules: "), "{reason}");
    assert!(decision.wanted().is_none_or(|wanted| wanted.replicas.0 <= 2), "{decision:?}");
}

#[test]
fn out_of_distribution_scores_are_those_of_the_network() {
    let policy = TreePolicy::new(tree());
    let network = Dqn::new(pretrained(), DqnParams::default(), &qscale_rl::device::cpu()).expect("it matches");
    for least in [0, 1] {
        let mut state = fixtures::busy(0.8);
        state.bounds.replicas =
            qscale_common::policy::Range::new(qscale_common::units::Replicas(least), state.bounds.replicas.max()).expect("ordered");
        let of_tree = policy.value(&state, &mut Memory::default());
        let of_network = network.value_all(&mut [(&state, &mut Memory::default())]).expect("the CPU computes").remove(0);
        assert_eq!((of_tree.ood_score, &of_tree.observation), (of_network.ood_score, &of_network.observation));
    }
}

#[test]
fn equal_actions_need_no_condition() {
    let same = split("rate", 0.5, leaf("keep"), Box::new(split("rate", 0.7, leaf("keep"), leaf("keep"))));
    assert_eq!(same.pruned(), TreeNode::Leaf(TreeLeaf { action: 0, samples: 120, equal: 90 }));
    let other = split("rate", 0.5, leaf("keep"), leaf("demand x2"));
    assert_eq!(other.clone().pruned(), other);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decides_within_the_bounds(seed in any::<u64>()) {
        let policy = TreePolicy::new(tree());
        for state in any_states(seed, 8) {
            let decision = decide(&policy, &state);
            if let Some(wanted) = decision.wanted() {
                prop_assert!(state.bounds.contain(wanted), "{}", wanted);
                prop_assert_ne!(Some(wanted), state.allocation);
            }
        }
    }

    #[test]
    fn any_threshold_is_read_back(threshold in proptest::num::f32::NORMAL | proptest::num::f32::SUBNORMAL | proptest::num::f32::ZERO) {
        let tree = tree_of(split("rate", threshold, leaf("keep"), leaf("demand x2"))).expect("valid");
        prop_assert_eq!(DecisionTree::parse(tree.to_string().as_bytes()), Ok(tree));
    }
}
