//! `qscale compare`: what another policy would have come to, beside the one that acts, by simulating both. Owns what is read and what is told; changes nothing.

mod judge;
mod profile;
mod scene;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail, ensure};
use clap::Args;
use qscale_common::contract::{Message as _, Outcome, Source, State};
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::clock;
use qscale_common::time::{Span, Timestamp};
use qscale_policies::History;
use qscale_sim::FunctionProfile;
use serde_json::{Value, json};

pub use self::judge::Line;
use self::judge::Ruled;
pub use self::scene::Scene;
pub use self::world::is_violated;
use crate::blocking::until_stopped;
use crate::profile::described;
use crate::recorded::{self, Decider, Period};
use crate::show::{self, Cell, Table, Tone};
use crate::system::Locate;

/// What is compared.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale compare fibonacci                             beside its shadow, where there is one
  qscale compare fibonacci --policy hpa:cpu_utilization=50 --since 4h
  qscale compare fibonacci --shadow dqn --profile fibonacci-profile.toml --seeds 20 --json

Both policies are simulated over the recorded arrivals, under the same seeds, behind the function's guard. That the acting policy is simulated as well shows how far
the simulation can be trusted: its error is what it shows beyond what was recorded. Where that is larger than the difference, this is said. A profile
that `qscale profile` measured is worth more than one that is estimated from what was recorded.")]
pub struct CompareArgs {
    /// namespace/name, or name
    #[arg(value_name = "FUNCTION")]
    function: FunctionId,
    /// The policy of this agent; by default of the only shadow that was recorded
    #[arg(long, value_name = "AGENT", conflicts_with = "policy")]
    shadow: Option<Name>,
    /// This policy
    #[arg(long, value_name = "NAME[:KEY=VALUE,...]")]
    policy: Option<String>,
    /// Model that the policy dqn decides by where it is compared; by default the shadow's, or the one that comes along
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    model: Option<PathBuf>,
    #[command(flatten)]
    period: Period,
    /// Profile of the function, .toml or .json, as `qscale profile` writes it; estimated where it is not named
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    profile: Option<PathBuf>,
    /// Simulated runs of each policy
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=1000))]
    seeds: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Compares and tells.
pub async fn run(locate: &Locate, arguments: CompareArgs) -> anyhow::Result<ExitCode> {
    let given = arguments.profile.as_ref().map(crate::validate::read).transpose()?;
    let bus = locate.bus().await?;
    let question = Question::of(locate, &bus, &arguments, given).await?;
    let seeds = u64::from(arguments.seeds);
    let (question, lines) = until_stopped("simulation", move |stop| {
        let lines = question.answer(seeds, stop)?;
        Ok((question, lines))
    })
    .await?;
    let Some(lines) = lines else { bail!("stopped") };
    if arguments.json {
        show::json(&question.to_json(&lines, arguments.seeds))?;
    } else {
        question.tell(&lines, arguments.seeds)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything that the answer depends on.
struct Question {
    acting: (Name, Decider),
    other: Decider,
    scene: Scene,
    /// What had to be assumed, in sentences.
    assumed: Vec<String>,
}

impl Question {
    async fn of(locate: &Locate, bus: &Bus, arguments: &CompareArgs, given: Option<FunctionProfile>) -> anyhow::Result<Self> {
        let function = &arguments.function;
        let (since, until) = arguments.period.ends(clock::now())?;
        let states = recorded::states(bus, function, since.minus(History::REACH), until).await?;
        let Some(last) = states.last().filter(|last| last.observed_at_ms >= since) else {
            return Err(recorded::nothing_seen(function, since));
        };
        let agent = last.agent.clone();
        let acting = of_agent(locate, bus, &agent, last, since, None).await.context("the acting policy cannot be simulated")?;
        let outcomes: Vec<Outcome> = recorded::all(bus, function, since).await?;
        let other = match (&arguments.policy, &arguments.shadow) {
            (Some(text), _) => Decider::named(text, arguments.model.as_deref())?,
            (None, named) => {
                let shadow = named.clone().map_or_else(|| only_shadow(&outcomes, function), Ok)?;
                ensure!(shadow != agent, "--shadow {shadow}: it is the agent that {function} obeys; name another, or a --policy");
                of_agent(locate, bus, &shadow, last, since, arguments.model.as_deref()).await?
            }
        };
        let mut assumed: Vec<String> = acting.assumed.iter().chain(&other.assumed).cloned().collect();
        let reach = [&acting, &other].into_iter().filter_map(|decider| decider.decides.remembers()).max().unwrap_or_default();
        let scene = Scene::of(locate, bus, &states, reach, (since, until), given).await?;
        assumed.extend(scene.assumed.iter().cloned());
        Ok(Self { acting: (agent, acting), other, scene, assumed })
    }

    /// The measures of both; `None` where it was stopped.
    fn answer(&self, seeds: u64, stop: &AtomicBool) -> anyhow::Result<Option<Vec<Line>>> {
        self.scene.answer(self.acting.1.decides.policy(), self.other.decides.policy(), seeds, stop)
    }

    fn to_json(&self, lines: &[Line], seeds: u32) -> Value {
        json!({
            "function": self.scene.function.to_string(),
            "since": self.scene.world.since,
            "until": self.scene.world.until,
            "ticks": self.scene.world.ticks(),
            "warm_up_ticks": self.scene.world.warm_up,
            "seeds": seeds,
            "acting": { "agent": self.acting.0, "policy": self.acting.1.title(), "model": self.acting.1.decides.model() },
            "other": { "policy": self.other.title(), "model": self.other.decides.model() },
            "currency": self.scene.world.currency(),
            "profile": *self.scene.world.setup.profile,
            "measures": lines,
            "assumed": self.assumed,
        })
    }

    fn tell(&self, lines: &[Line], seeds: u32) -> anyhow::Result<()> {
        let world = &self.scene.world;
        let length = Span::millis(world.tick_ms());
        show::line(format_args!(
            "{} from {} {} to {} UTC: {} ticks of {length}, simulated {seeds} times for each policy after {} ticks that only warm up",
            self.scene.function,
            show::day(world.since),
            show::clock(world.since),
            show::clock(world.until),
            world.ticks(),
            world.warm_up
        ))?;
        show::line(described(&world.setup.profile))?;
        let (acting, other) = (format!("{} (acts)", self.acting.1.title()), self.other.title());
        let mut table = Table::new(&["", "RECORDED", &acting, &other, "DIFFERENCE"]);
        for line in lines {
            let tone = if line.ruled() == Ruled::Told { Tone::Strong } else { Tone::Dim };
            table.row([
                line.heading(&show::clean(world.currency())).into(),
                line.recorded.map_or_else(|| "not known".to_owned(), |value| line.shown(value)).into(),
                line.range(&line.acting).into(),
                line.range(&line.other).into(),
                Cell::new(line.signed_range(&line.difference), tone),
            ]);
        }
        table.print()?;
        show::line("Means over the seeds with 95 % intervals: of chance alone, not of what the profile may be wrong by.\n")?;
        for line in lines {
            show::line(line.sentence(&other))?;
        }
        if !self.assumed.is_empty() {
            show::line("\nAssumed, or a guess")?;
        }
        self.assumed.iter().try_for_each(|assumption| show::line(format_args!("  {assumption}")))
    }
}

/// The policy of `agent`, by what it said last, up to the State `last`.
async fn of_agent(
    locate: &Locate,
    bus: &Bus,
    agent: &Name,
    last: &State,
    since: Timestamp,
    model: Option<&Path>,
) -> anyhow::Result<Decider> {
    let actions = recorded::actions(bus, agent, &last.function(), since).await?;
    Decider::of_agent(locate, bus, agent, recorded::model_of(&actions, last.moment()).as_deref(), model).await
}

/// The only agent beside the acting one whose decisions were recorded.
fn only_shadow(outcomes: &[Outcome], function: &FunctionId) -> anyhow::Result<Name> {
    let mut shadows: Vec<&Name> =
        outcomes.iter().filter(|outcome| outcome.source == Source::Shadow).map(|outcome| &outcome.agent).collect();
    shadows.sort();
    shadows.dedup();
    match shadows.as_slice() {
        [only] => Ok((*only).clone()),
        [] => bail!("no shadow of {function} was recorded; say with --policy what to compare with, such as --policy hpa"),
        several => {
            let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
            bail!("{function} has the shadows {}; choose one with --shadow", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::{Effect, Epoch, Version};
    use qscale_common::time::Tick;
    use qscale_common::units::Allocation;

    use super::*;

    fn outcome(source: Source, agent: &str) -> Outcome {
        let name = |text: &str| Name::new(text).expect("valid");
        Outcome {
            version: Version::CURRENT,
            namespace: name("default"),
            function: name("f"),
            epoch: Epoch(1),
            tick: Tick(1),
            source,
            agent: name(agent),
            model: String::new(),
            effect: Effect::Recorded,
            requested: Allocation::new(1, 500, 128),
            before: None,
            allowed: None,
            guard: Vec::new(),
            reason: String::new(),
            decided_at_ms: Timestamp(1),
            actuator: String::new(),
            attempts: 0,
        }
    }

    #[test]
    fn the_only_shadow_need_not_be_named() {
        let function = "f".parse().expect("valid");
        let shadow =
            |outcomes: &[Outcome]| only_shadow(outcomes, &function).map(|name| name.to_string()).map_err(|error| error.to_string());
        let (acting, hpa, kpa) = (outcome(Source::Agent, "static"), outcome(Source::Shadow, "hpa"), outcome(Source::Shadow, "kpa"));
        assert_eq!(shadow(&[acting.clone(), hpa.clone(), hpa.clone()]), Ok("hpa".to_owned()));
        assert!(shadow(std::slice::from_ref(&acting)).expect_err("none").contains("--policy hpa"));
        assert!(shadow(&[acting, kpa, hpa]).expect_err("two").contains("the shadows hpa, kpa; choose one with --shadow"));
    }
}
