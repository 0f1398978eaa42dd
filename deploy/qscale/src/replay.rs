//! `qscale replay`: what was recorded, decided again. Owns the arguments and what is told; changes nothing.

mod again;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{anyhow, ensure};
use clap::Args;
use qscale_common::contract::{Action, Moment, State};
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::clock;
use qscale_common::time::Timestamp;
use serde_json::{Value, json};

use self::again::{Alike, Line, Outcome};
use crate::recorded::{self, Decider, Period, Said};
use crate::show::{self, Cell, Table, Tone};
use crate::store;
use crate::system::Locate;

/// Exit status where something is decided otherwise and --check is given.
const DIFFERENT: u8 = 3;
/// Differences that people are shown of a function.
const SHOWN: usize = 20;

/// What is to be decided again, and by whom.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale replay fibonacci                               the acting agent again: the same answers, to the bit
  qscale replay fibonacci --since 10m --policy hpa:cpu_utilization=50
  qscale replay fibonacci --model .qscale/training/model.dqn --csv > again.csv
  qscale replay --all --since 1h --check                a test of an upgrade: fails where any answer differs

Each function's States are decided on in their order, with memory, by a network with the rule beside it that stands in where it cannot be trusted. Those before --since, as far back as the policy remembers, only rebuild that memory. An answer is
the same where allocation, reason and values are, to the bit.

Exit status: 0 done, 1 an error, 3 with --check where an answer differs.")]
pub struct ReplayArgs {
    /// namespace/name, or name
    #[arg(value_name = "FUNCTION", required_unless_present = "all", conflicts_with = "all")]
    function: Option<FunctionId>,
    /// Every function that has a policy
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    period: Period,
    /// Decide by this policy; by default by that of the agent, as far as it is known
    #[arg(long, value_name = "NAME[:KEY=VALUE,...]")]
    policy: Option<String>,
    /// Model that the policy dqn decides by; by default the agent's, or the one that comes along
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    model: Option<PathBuf>,
    /// Agent whose answers are compared; by default the one that is obeyed
    #[arg(long, value_name = "NAME")]
    agent: Option<Name>,
    /// Print every answer as a line of comma-separated values
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Fail with status 3 where an answer differs
    #[arg(long)]
    check: bool,
}

/// Decides again and tells what differs.
pub async fn run(locate: &Locate, arguments: ReplayArgs) -> anyhow::Result<ExitCode> {
    let bus = locate.bus().await?;
    let (since, until) = arguments.period.ends(clock::now())?;
    let functions = match &arguments.function {
        Some(function) => vec![function.clone()],
        None => with_policies(&bus).await?,
    };
    let mut found = Vec::new();
    for function in &functions {
        match one(locate, &bus, &arguments, function, (since, until)).await? {
            Some(replayed) => found.push(replayed),
            None if arguments.all => show::warn(format_args!("no State of {function} is kept since {since}")),
            None => return Err(recorded::nothing_seen(function, since)),
        }
    }
    if arguments.csv {
        csv(&found)?;
    } else if arguments.json {
        show::json(&json!({ "functions": found.iter().map(Replayed::to_json).collect::<Vec<_>>() }))?;
    } else {
        found.iter().try_for_each(tell)?;
    }
    let compared: usize = found.iter().map(|replayed| replayed.count(|_| true)).sum();
    ensure!(!arguments.check || compared > 0, "--check: there is no recorded answer to compare with");
    let same = found.iter().all(|replayed| replayed.count(|alike| alike == Alike::Same) == replayed.count(|_| true));
    Ok(if arguments.check && !same { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
}

async fn with_policies(bus: &Bus) -> anyhow::Result<Vec<FunctionId>> {
    let policies = store::policies(bus).await?;
    let functions: Vec<FunctionId> = policies.into_values().filter_map(Result::ok).map(|policy| policy.function()).collect();
    ensure!(!functions.is_empty(), "--all: no function has a policy; `qscale policy apply` gives one");
    Ok(functions)
}

/// What came of one function.
struct Replayed {
    function: FunctionId,
    agent: Name,
    /// What decided again, and what had to be assumed of it.
    policy: String,
    model: String,
    assumed: Vec<String>,
    outcome: Outcome,
}

impl Replayed {
    /// Recorded answers that are `alike` what is decided now.
    fn count(&self, alike: impl Fn(Alike) -> bool) -> usize {
        self.outcome.lines.iter().filter_map(Line::alike).filter(|found| alike(*found)).count()
    }

    fn to_json(&self) -> Value {
        let differences = self.outcome.lines.iter().filter(|line| line.alike().is_some_and(|alike| alike != Alike::Same));
        json!({
            "function": self.function.to_string(),
            "agent": self.agent,
            "policy": self.policy,
            "model": self.model,
            "assumed": self.assumed,
            "states": self.outcome.lines.len(),
            "compared": self.count(|_| true),
            "same": self.count(|alike| alike == Alike::Same),
            "same_allocation": self.count(|alike| alike != Alike::Other),
            "not_seen_by_the_agent": self.outcome.passed_over,
            "by_the_rule_beside": self.outcome.lines.iter().filter(|line| line.beside).count(),
            "differences": differences.collect::<Vec<_>>(),
        })
    }
}

/// Replays one function; `None` where nothing was seen of it.
async fn one(
    locate: &Locate,
    bus: &Bus,
    arguments: &ReplayArgs,
    function: &FunctionId,
    (since, until): (Timestamp, Timestamp),
) -> anyhow::Result<Option<Replayed>> {
    let Some(last) = recorded::states(bus, function, since, until).await?.pop() else { return Ok(None) };
    let moment = last.moment();
    let agent = arguments.agent.clone().unwrap_or(last.agent);
    let newest = recorded::model_of(&recorded::actions(bus, &agent, function, since).await?, moment);
    let decider = match &arguments.policy {
        Some(text) => Decider::named(text, arguments.model.as_deref())?,
        None => Decider::of_agent(locate, bus, &agent, newest.as_deref(), arguments.model.as_deref())
            .await
            .map_err(|error| anyhow!("{error:#}; --policy decides by another one"))?,
    };
    // Another policy has its own memory; the agent's is what the agent saw.
    let as_agent = arguments.policy.is_none();
    let recorded = Recorded::read(bus, function, &agent, &decider, (since, until), as_agent).await?;
    let outcome = again::decide(&decider.decides, &recorded.states, recorded.actions, since, as_agent);
    let mut assumed = decider.assumed.clone();
    assumed.extend(others(&outcome, newest.as_deref()));
    let model = decider.decides.model();
    let of_it = |line: &&Line| line.model.as_ref() == Some(&model);
    if as_agent
        && recorded.begins_amid
        && outcome.lines.iter().filter(of_it).any(|line| line.alike().is_some_and(|alike| alike != Alike::Same))
    {
        assumed.push(format!("{agent} remembers only what is still kept: it may have begun before the oldest State"));
    }
    Ok(Some(Replayed { function: function.clone(), agent, policy: decider.title(), model, assumed, outcome }))
}

/// What to say where the model changed meanwhile.
fn others(outcome: &Outcome, newest: Option<&str>) -> Option<String> {
    let others = outcome.lines.iter().filter_map(|line| line.model.as_deref()).filter(|model| Some(*model) != newest);
    let count = others.clone().count();
    let first = others.into_iter().next()?;
    Some(format!("{count} of the answers were given by another model, `{}`", show::clean(first)))
}

/// What is decided on again.
struct Recorded {
    states: Vec<State>,
    actions: BTreeMap<Moment, Action>,
    /// Whether the agent answered the oldest State already: what it remembered of earlier ones is not known.
    begins_amid: bool,
}

impl Recorded {
    /// As much as the policy remembers before `since`. Where the agent's own memory is to be rebuilt, as far back as it began: a rule that decides at a
    /// pace of its own keeps the beat of its first State.
    async fn read(
        bus: &Bus,
        function: &FunctionId,
        agent: &Name,
        decider: &Decider,
        (since, until): (Timestamp, Timestamp),
        as_agent: bool,
    ) -> anyhow::Result<Self> {
        let remembers = decider.decides.remembers();
        let found = Self::since(bus, function, agent, since.minus(remembers.unwrap_or_default()), until).await?;
        if as_agent && remembers.is_some() && found.begins_amid {
            return Self::since(bus, function, agent, Timestamp(0), until).await;
        }
        Ok(found)
    }

    async fn since(bus: &Bus, function: &FunctionId, agent: &Name, from: Timestamp, until: Timestamp) -> anyhow::Result<Self> {
        let states = recorded::states(bus, function, from, until).await?;
        let actions = recorded::actions(bus, agent, function, from).await?;
        let begins_amid = states.first().is_some_and(|first| actions.contains_key(&first.moment()));
        Ok(Self { states, actions, begins_amid })
    }
}

fn tell(replayed: &Replayed) -> anyhow::Result<()> {
    let Replayed { function, agent, policy, model, assumed, outcome } = replayed;
    let lines = &outcome.lines;
    let span = lines
        .first()
        .zip(lines.last())
        .map(|(first, last)| format!(" from {} {} to {} UTC", show::day(first.at), show::clock(first.at), show::clock(last.at)));
    show::line(format_args!("{function}: {} States{}, decided again by {policy} (`{model}`)", lines.len(), span.unwrap_or_default()))?;
    for assumption in assumed {
        show::line(format_args!("assumed: {assumption}"))?;
    }
    if outcome.passed_over > 0 {
        show::line(format_args!("{} States that {agent} did not answer are taken as not seen by it", outcome.passed_over))?;
    }
    let beside = lines.iter().filter(|line| line.beside).count();
    if beside > 0 {
        show::line(format_args!(
            "{beside} answers were the rule's that stands in where the network cannot be trusted, as it does when it decides again"
        ))?;
    }
    let compared = replayed.count(|_| true);
    if compared == 0 {
        return show::line(format_args!("{agent} answered none of them, so there is nothing to compare; --csv lists what is decided now"));
    }
    let (same, other) = (replayed.count(|alike| alike == Alike::Same), replayed.count(|alike| alike == Alike::Other));
    show::line(format_args!(
        "of {compared} answers of {agent} {same} are the same to the bit, {} ask for the same with other reasons or values, {other} for something else",
        compared - same - other
    ))?;
    differences(lines, if other > 0 { Alike::Other } else { Alike::Words })
}

/// A table of the answers that are `alike`.
fn differences(lines: &[Line], alike: Alike) -> anyhow::Result<()> {
    let all: Vec<&Line> = lines.iter().filter(|line| line.alike() == Some(alike)).collect();
    if all.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["TICK", "AT", "RECORDED", "NOW", "BECAUSE"]);
    for line in all.iter().take(SHOWN) {
        let said = |said: &Option<Said>| said.as_ref().map_or("nothing".to_owned(), |said| said.allocation.to_string());
        let reason = line.now.as_ref().map_or("", |said| said.reason.as_str());
        table.row([
            line.tick.into(),
            Cell::new(show::clock(line.at), Tone::Dim),
            said(&line.recorded).into(),
            Cell::new(said(&line.now), if alike == Alike::Other { Tone::Warn } else { Tone::Plain }),
            Cell::new(show::clean(reason), Tone::Dim),
        ]);
    }
    table.print()?;
    if all.len() > SHOWN {
        show::line(format_args!("and {} more; --csv lists all", all.len() - SHOWN))?;
    }
    Ok(())
}

fn csv(found: &[Replayed]) -> anyhow::Result<()> {
    show::line(
        "function,epoch,tick,at,alike,recorded_replicas,recorded_cpu_millicores,recorded_memory_mib,recorded_reason,replicas,cpu_millicores,memory_mib,reason",
    )?;
    for replayed in found {
        for line in &replayed.outcome.lines {
            show::line(row(&replayed.function, line))?;
        }
    }
    Ok(())
}

fn row(function: &FunctionId, line: &Line) -> String {
    let said = |said: &Option<Said>| match said {
        Some(Said { allocation, reason, .. }) => {
            let quoted = show::whole(reason).replace('"', "\"\"");
            format!("{},{},{},\"{quoted}\"", allocation.replicas.0, allocation.cpu_millicores.0, allocation.memory_mib.0)
        }
        None => ",,,".to_owned(),
    };
    let alike = line.alike().map_or("", Alike::word);
    format!("{function},{},{},{},{alike},{},{}", line.epoch.0, line.tick, line.at, said(&line.recorded), said(&line.now))
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::Epoch;
    use qscale_common::time::Tick;
    use qscale_common::units::Allocation;

    use super::*;

    #[test]
    fn a_row_keeps_what_others_wrote_within_its_column() {
        let said = |replicas, reason: &str| {
            Some(Said { allocation: Allocation::new(replicas, 500, 128), reason: reason.into(), choices: Vec::new() })
        };
        let line = Line {
            epoch: Epoch(7),
            tick: Tick(9),
            at: Timestamp(1_763_880_784_123),
            model: None,
            beside: false,
            recorded: said(2, "a \"b\",\nc"),
            now: said(3, "d"),
        };
        let expected = "default/f,7,9,2025-11-23T06:53:04.123Z,other,2,500,128,\"a \"\"b\"\",\\nc\",3,500,128,\"d\"";
        assert_eq!(row(&"f".parse().expect("valid"), &line), expected);
        let unanswered = Line { recorded: None, ..line };
        assert!(
            row(&"f".parse().expect("valid"), &unanswered).contains(".123Z,,,,,,3,500,128,"),
            "{}",
            row(&"f".parse().expect("valid"), &unanswered)
        );
    }
}
