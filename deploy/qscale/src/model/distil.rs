//! `qscale model distil`: a decision tree that imitates a model. Owns arguments and output; the distillation belongs to `qscale_train`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use qscale_common::policy::ViolationCost;
use qscale_common::runtime::cancellable::until_stopped;
use qscale_dqn::Checkpoint;
use qscale_dqn::pretrained::pretrained;
use qscale_evaluate::suite::BUNDLED;
use qscale_experiments::distil::{SuiteChoice, SuiteComparison, SuiteLoss, compare_tree, write_tree};
use qscale_replay::policy::load_model;
use qscale_rl::device::cpu;
use qscale_train::distil::{Agreement, DistilError, DistilOptions, DistilRound, Distillation, distil};
use serde_json::json;

use super::PRETRAINED;
use crate::evaluate::Bar;
use crate::output::{self, Table, TableCell};
use crate::system::Locate;

/// Arguments of a distillation.
#[derive(Debug, Args)]
pub struct DistilArgs {
    /// Model to imitate: a file, or pretrained, the bundled model
    #[arg(long, value_name = "FILE|pretrained", default_value = PRETRAINED, value_hint = clap::ValueHint::FilePath)]
    model: PathBuf,
    /// Greatest number of conditions from the root to an action, 1 to 12
    #[arg(long, value_name = "NUMBER", default_value_t = DistilOptions::default().depth)]
    depth: u32,
    /// File to write; must not exist
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    out: PathBuf,
    /// Violation cost at which the model decides, 10 to 20000 [default: that of each function, 20, or 500 for one that may be scaled to zero]
    #[arg(long, value_name = "NUMBER", value_parser = violation_cost)]
    violation_cost: Option<ViolationCost>,
    /// Simulated functions of each round; a quarter as many to choose the tree, and to measure its fidelity
    #[arg(long, value_name = "NUMBER", default_value_t = DistilOptions::default().worlds)]
    worlds: u64,
    /// Rounds; in all but the first the tree of the round before acts, so that the model also decides in the states to which the tree leads
    #[arg(long, value_name = "NUMBER", default_value_t = DistilOptions::default().rounds)]
    rounds: u32,
    /// Seed of the simulated functions
    #[arg(long, value_name = "NUMBER", default_value_t = DistilOptions::default().seed)]
    seed: u64,
    /// Suite in which the tree is compared with the model and the best rule: synthetic, steady, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "synthetic", value_hint = clap::ValueHint::FilePath)]
    suite: String,
    /// Run all cells and seeds of the suite instead of its quick version
    #[arg(long)]
    full: bool,
    /// Do not run a suite
    #[arg(long, conflicts_with_all = ["suite", "full"])]
    no_suite: bool,
    /// Threads; by default one per core. The results do not depend on it
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn violation_cost(text: &str) -> Result<ViolationCost, String> {
    text.parse::<f64>().map_err(|error| error.to_string()).and_then(ViolationCost::try_from)
}

/// Distils, writes the tree and prints its fidelity and its loss.
pub async fn run(locate: &Locate, arguments: DistilArgs) -> anyhow::Result<()> {
    let model = if arguments.model.as_os_str() == PRETRAINED { pretrained().clone() } else { load_model(&arguments.model)? };
    ensure!(!arguments.out.exists(), "--out {}: the file exists; name another one, or remove it", arguments.out.display());
    let threads = arguments.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let DistilArgs { depth, worlds, rounds, seed, violation_cost, .. } = arguments;
    let options = DistilOptions { depth, worlds, rounds, seed, violation_cost, threads };
    let teacher = model.clone();
    let found = until_stopped("distillation", move |stop| match distil(&teacher, &options, &cpu(), note_round, stop) {
        Ok(found) => Ok(Some(found)),
        Err(DistilError::Stopped) => Ok(None),
        Err(error) => Err(error.into()),
    });
    let Some(found) = found.await? else { bail!("stopped; nothing was written") };
    write_tree(&found, &arguments.out)?;
    let choice = (!arguments.no_suite).then(|| SuiteChoice {
        suite: arguments.suite.clone(),
        full: arguments.full,
        folder: locate.state_dir.join("evaluations").join("distil"),
        command: command(&arguments),
        threads,
    });
    let comparison = match choice {
        Some(choice) => Some(compare(&arguments, &found, model, choice).await.with_context(|| written(&arguments))?),
        None => None,
    };
    if arguments.json { print_json(&arguments, &found, comparison.as_ref()) } else { print(&arguments, &found, comparison.as_ref()) }
}

fn written(arguments: &DistilArgs) -> String {
    format!("{} is written, but not compared", arguments.out.display())
}

async fn compare(arguments: &DistilArgs, found: &Distillation, model: Checkpoint, choice: SuiteChoice) -> anyhow::Result<SuiteComparison> {
    let (found, out) = (found.clone(), arguments.out.clone());
    let compared = until_stopped("evaluation", move |stop| {
        let mut bar = Bar::new();
        let compared = compare_tree(&out, &found, model, choice, |progress| bar.show(progress), stop);
        bar.finish();
        compared
    });
    compared.await?.context("stopped")
}

fn note_round(round: &DistilRound) {
    output::note(format_args!(
        "round {}: {} samples, {} leaves; in the states that the tree visits it agrees with the model in {}",
        round.round,
        round.samples,
        round.leaves,
        percent(round.agreement)
    ));
}

fn percent(agreement: Agreement) -> String {
    agreement.share().map_or_else(|| "no decision".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// The command that repeats the results.
fn command(arguments: &DistilArgs) -> String {
    let DistilArgs { model, depth, out, violation_cost, worlds, rounds, seed, suite, full, .. } = arguments;
    let cost = violation_cost.map_or_else(String::new, |cost| format!(" --violation-cost {}", cost.get()));
    let suite = if BUNDLED[0].name == suite { String::new() } else { format!(" --suite {suite}") };
    let full = if *full { " --full" } else { "" };
    format!(
        "qscale model distil --model {} --depth {depth} --worlds {worlds} --rounds {rounds} --seed {seed}{cost}{suite}{full} --out {}",
        model.display(),
        out.display()
    )
}

fn print_json(arguments: &DistilArgs, found: &Distillation, comparison: Option<&SuiteComparison>) -> anyhow::Result<()> {
    output::json(&json!({
        "file": arguments.out,
        "command": command(arguments),
        "fingerprint": found.tree.fingerprint(),
        "model": found.tree.header().model,
        "depth": found.tree.depth(),
        "leaves": found.tree.leaves(),
        "chosen_round": found.chosen,
        "rounds": found.rounds,
        "fidelity": found.fidelity,
        "suite": comparison,
    }))
}

fn print(arguments: &DistilArgs, found: &Distillation, comparison: Option<&SuiteComparison>) -> anyhow::Result<()> {
    let (tree, fidelity) = (&found.tree, &found.fidelity);
    output::line(format_args!(
        "{}: {} leaves, at most {} conditions, of round {} of {}; imitates the model {}",
        arguments.out.display(),
        tree.leaves(),
        tree.depth(),
        found.chosen,
        found.rounds.len(),
        tree.header().model
    ))?;
    output::line(format_args!(
        "fidelity: the same allocation as the model in {} of the states that the model visits, and in {} of those that the tree visits; the default action \
         alone: {}",
        percent(fidelity.of_model_states),
        percent(fidelity.of_tree_states),
        percent(fidelity.of_default)
    ))?;
    let mut table = Table::new(&["TEST WORLDS", "VIOLATED", "COST", "REWARD"]);
    for (name, score) in [("model", &fidelity.model), ("tree", &fidelity.tree)] {
        let mean = &score.mean;
        let cells =
            [name.to_owned(), format!("{:.2} %", mean.violation * 100.0), format!("{:.3}", mean.cost), format!("{:.4}", mean.reward)];
        table.row(cells.map(TableCell::from));
    }
    table.print()?;
    if let Some(comparison) = comparison {
        print_suite(comparison)?;
    }
    output::line(format_args!(
        "next: less {0}, qscale evaluate --policy tree:file={0}, or qscale up --agent tree --model {0}",
        arguments.out.display()
    ))
}

fn print_suite(comparison: &SuiteComparison) -> anyhow::Result<()> {
    let SuiteComparison { tree, model, best_rule, currency, runs, folder } = comparison;
    let cost = format!("COST, {}/1000 h", output::clean(currency));
    let mut table = Table::new(&["SUITE", "VIOLATED", &cost, "LOSS"]);
    let best = best_rule.as_ref().map(|best| (format!("{} (best rule)", best.name), best));
    for (name, loss) in [("tree".to_owned(), tree), ("model".to_owned(), model)].into_iter().chain(best) {
        let SuiteLoss { violated_share, cost_per_hour, loss, .. } = loss;
        let cells = [name, format!("{:.2} %", violated_share * 100.0), format!("{:.1}", cost_per_hour * 1000.0), format!("{loss:.4}")];
        table.row(cells.map(TableCell::from));
    }
    output::line("")?;
    table.print()?;
    output::line(format_args!("means over {runs} runs of each; {}/report.html", folder.display()))
}
