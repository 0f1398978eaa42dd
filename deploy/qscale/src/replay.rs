//! `qscale replay`: decides on recorded States again. Owns the arguments and the output; the replay is that of `qscale_replay`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Args;
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::signature::TrustConfig;
use qscale_common::runtime::{clock, kv};
use qscale_replay::policy::load_model;
use qscale_replay::replay::{Match, ReplayWith, ReplayedDecision, replay};
use qscale_replay::{FunctionReplay, NothingRecorded, ReplayPolicy, ReplayedAnswer};
use serde_json::json;

use crate::output::{self, Table, TableCell, Tone};
use crate::period::PeriodArgs;
use crate::system::Locate;

/// Exit status of --check if a decision differs.
const DIFFERENT: u8 = 3;
/// Differences shown per function.
const SHOWN: usize = 20;

/// Recording to replay, and the policy.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale replay fibonacci                               the acting agent: the same decisions, bit for bit
  qscale replay fibonacci --since 10m --policy hpa:cpu_utilization=50
  qscale replay fibonacci --model .qscale/training/model.dqn --csv > replay.csv
  qscale replay --all --since 1h --check                tests an upgrade: fails if any decision differs

The States of each function are decided on in order and with memory; a network falls back to its rule as in the agent. States before --since, as far as the policy looks
back, only rebuild its memory. Two decisions are the same if allocation, reason and values are equal bit for bit.

Exit status: 0 success, 1 error, 3 a decision differs and --check is given.")]
pub struct ReplayArgs {
    /// namespace/name, or name
    #[arg(value_name = "FUNCTION", required_unless_present = "all", conflicts_with = "all")]
    function: Option<FunctionId>,
    /// Every function with a ScalingPolicy
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    period: PeriodArgs,
    /// Policy that decides again; by default that of the agent, from its configuration or its Actions
    #[arg(long, value_name = "NAME[:KEY=VALUE,...]")]
    policy: Option<String>,
    /// Model of policy dqn; by default the agent's, or the bundled model
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    model: Option<PathBuf>,
    /// Agent whose decisions are compared; by default the acting one
    #[arg(long, value_name = "NAME")]
    agent: Option<Name>,
    /// Print every decision as CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Fail with status 3 if a decision differs, and with 1 if a recorded State cannot be read
    #[arg(long)]
    check: bool,
}

/// Replays and prints the differences.
pub async fn run(locate: &Locate, arguments: ReplayArgs) -> anyhow::Result<ExitCode> {
    let bus = locate.bus().await?;
    let period = arguments.period.resolve(clock::now())?;
    let functions = match &arguments.function {
        Some(function) => vec![function.clone()],
        None => with_policies(&bus).await?,
    };
    let model = arguments.model.as_deref().map(load_model).transpose()?;
    let policy = arguments.policy.as_deref();
    let policy = policy.map(|text| ReplayPolicy::named(text, model.as_ref()).with_context(|| format!("--policy {text}"))).transpose()?;
    let settings = locate.agent_settings();
    let with = match &policy {
        Some(policy) => ReplayWith::Policy(policy),
        None => ReplayWith::Agent { settings: &settings, model: model.as_ref() },
    };
    let mut replays = Vec::new();
    for function in &functions {
        match replay(&bus, function, period, arguments.agent.as_ref(), with).await? {
            Some(replayed) => replays.push(replayed),
            None if arguments.all => output::warn(format_args!("no State of {function} since {} is retained", period.since)),
            None => return Err(NothingRecorded { function: function.clone(), since: period.since }.into()),
        }
    }
    if arguments.csv {
        csv(&replays)?;
    } else if arguments.json {
        output::json(&json!({ "functions": replays }))?;
    } else {
        replays.iter().try_for_each(print)?;
    }
    let compared: usize = replays.iter().map(FunctionReplay::compared).sum();
    ensure!(!arguments.check || compared > 0, "--check: no decision was recorded, so there is nothing to compare");
    let unreadable: u64 = replays.iter().map(|replay| replay.unreadable).sum();
    ensure!(!arguments.check || unreadable == 0, "--check: {unreadable} recorded States cannot be read, so they were not compared");
    let same = replays.iter().all(|replay| replay.count(Match::Same) == replay.compared());
    Ok(if arguments.check && !same { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
}

async fn with_policies(bus: &Bus) -> anyhow::Result<Vec<FunctionId>> {
    let policies = kv::policies(bus, &TrustConfig::default()).await?;
    let functions: Vec<FunctionId> = policies.into_values().filter_map(Result::ok).map(|policy| policy.function()).collect();
    ensure!(!functions.is_empty(), "--all: no function has a ScalingPolicy; create one with `qscale policy apply`");
    Ok(functions)
}

fn print(replayed: &FunctionReplay) -> anyhow::Result<()> {
    let FunctionReplay { function, agent, policy, configuration, assumptions, decisions, unseen, unreadable: _ } = replayed;
    let span = decisions.first().zip(decisions.last());
    let span =
        span.map(|(first, last)| format!(" from {} {} to {} UTC", output::day(first.at), output::clock(first.at), output::clock(last.at)));
    output::line(format_args!(
        "{function}: {} States{}, replayed with {policy} (`{configuration}`)",
        decisions.len(),
        span.unwrap_or_default()
    ))?;
    for assumption in assumptions {
        output::line(format_args!("assumption: {assumption}"))?;
    }
    if *unseen > 0 {
        output::line(format_args!("{unseen} States were skipped: {agent} did not answer them and is assumed not to have seen them"))?;
    }
    if replayed.fallbacks() > 0 {
        output::line(format_args!("{} recorded decisions were made by the fallback rule, and are replayed by it", replayed.fallbacks()))?;
    }
    let compared = replayed.compared();
    if compared == 0 {
        return output::line(format_args!(
            "{agent} decided on none of them, so there is nothing to compare; --csv lists the replayed decisions"
        ));
    }
    let different = replayed.count(Match::Different);
    output::line(format_args!(
        "{compared} decisions of {agent}: {} the same bit for bit, {} with the same allocation but another reason or other values, {different} different",
        replayed.count(Match::Same),
        replayed.count(Match::SameAllocation)
    ))?;
    differences(decisions, if different > 0 { Match::Different } else { Match::SameAllocation })
}

/// A table of the decisions that compare as `wanted`.
fn differences(decisions: &[ReplayedDecision], wanted: Match) -> anyhow::Result<()> {
    let all: Vec<&ReplayedDecision> = decisions.iter().filter(|decision| decision.comparison() == Some(wanted)).collect();
    if all.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["TICK", "TIME", "RECORDED", "REPLAYED", "REASON"]);
    for decision in all.iter().take(SHOWN) {
        let allocation =
            |answer: &Option<ReplayedAnswer>| answer.as_ref().map_or("none".to_owned(), |answer| answer.allocation.to_string());
        let reason = decision.now.as_ref().map_or("", |answer| answer.reason.as_str());
        table.row([
            decision.tick.into(),
            TableCell::new(output::clock(decision.at), Tone::Dim),
            allocation(&decision.recorded).into(),
            TableCell::new(allocation(&decision.now), if wanted == Match::Different { Tone::Warn } else { Tone::Plain }),
            TableCell::new(output::clean(reason), Tone::Dim),
        ]);
    }
    table.print()?;
    if all.len() > SHOWN {
        output::line(format_args!("and {} more; --csv lists all", all.len() - SHOWN))?;
    }
    Ok(())
}

fn csv(replays: &[FunctionReplay]) -> anyhow::Result<()> {
    output::line(
        "function,epoch,tick,time,match,recorded_replicas,recorded_cpu_millicores,recorded_memory_mib,recorded_reason,replicas,cpu_millicores,memory_mib,reason",
    )?;
    for replayed in replays {
        for decision in &replayed.decisions {
            output::line(row(&replayed.function, decision))?;
        }
    }
    Ok(())
}

fn row(function: &FunctionId, decision: &ReplayedDecision) -> String {
    let columns = |answer: &Option<ReplayedAnswer>| match answer {
        Some(ReplayedAnswer { allocation, reason, .. }) => {
            let quoted = output::whole(reason).replace('"', "\"\"");
            format!("{},{},{},\"{quoted}\"", allocation.replicas.0, allocation.cpu_millicores.0, allocation.memory_mib.0)
        }
        None => ",,,".to_owned(),
    };
    let comparison = decision.comparison().map_or("", Match::as_str);
    let ReplayedDecision { epoch, tick, at, recorded, now, .. } = decision;
    format!("{function},{},{tick},{at},{comparison},{},{}", epoch.0, columns(recorded), columns(now))
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::Epoch;
    use qscale_common::time::{Tick, Timestamp};
    use qscale_common::units::Allocation;

    use super::*;

    #[test]
    fn csv_row_quotes_reasons() {
        let answer = |replicas, reason: &str| {
            Some(ReplayedAnswer { allocation: Allocation::new(replicas, 500, 128), reason: reason.into(), choices: Vec::new() })
        };
        let decision = ReplayedDecision {
            epoch: Epoch(7),
            tick: Tick(9),
            at: Timestamp(1_763_880_784_123),
            configuration: None,
            fallback: false,
            recorded: answer(2, "a \"b\",\nc"),
            now: answer(3, "d"),
        };
        let function = "f".parse().expect("valid");
        let expected = "default/f,7,9,2025-11-23T06:53:04.123Z,different,2,500,128,\"a \"\"b\"\",\\nc\",3,500,128,\"d\"";
        assert_eq!(row(&function, &decision), expected);
        let unanswered = row(&function, &ReplayedDecision { recorded: None, ..decision });
        assert_eq!(unanswered, "default/f,7,9,2025-11-23T06:53:04.123Z,,,,,,3,500,128,\"d\"");
    }
}
