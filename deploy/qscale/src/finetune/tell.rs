//! Decisions in words, for people and for programs. Owns how they are told; decides nothing.

use anyhow::Context as _;
use qscale_common::name::Name;
use qscale_common::time::Timestamp;
use qscale_promote::{Gates, Outcome, Said, Stage};
use serde_json::{Value, json};

use crate::show::{self, Cell, Table, Tone};

/// Tells each decision once.
pub struct Teller {
    /// The model.
    pub model: Name,
    /// Whether programs read it.
    pub json: bool,
    /// Decisions that were told, or made before this process.
    pub told: u64,
}

/// What an outcome means.
fn meaning(outcome: Outcome) -> (&'static str, Tone) {
    match outcome {
        Outcome::TooLittle => ("no candidate", Tone::Dim),
        Outcome::RejectedOffline => ("offline gate: rejected", Tone::Plain),
        Outcome::Shadow => ("offline gate: passed, in the shadow now", Tone::Good),
        Outcome::RejectedInShadow => ("shadow gate: rejected", Tone::Plain),
        Outcome::Recommended => ("shadow gate: passed, recommended", Tone::Good),
        Outcome::Used => ("shadow gate: passed, in use now and watched", Tone::Good),
        Outcome::Kept => ("use: stays", Tone::Good),
        Outcome::RolledBack => ("use: taken back", Tone::Bad),
        Outcome::Foreign => ("not watched any more", Tone::Warn),
    }
}

impl Teller {
    /// Tells people what they may want to know; programs read decisions only.
    pub fn remark(&self, text: &str) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { show::line(show::clean(text)) }
    }

    /// Tells what was decided since it was last told. Before `not_before` nothing else is tried.
    pub fn tell(&mut self, gates: &Gates, not_before: Timestamp) -> anyhow::Result<()> {
        for said in gates.said_since(self.told) {
            if self.json {
                let mut value = self.as_json(said);
                value["not_before"] = json!(not_before);
                show::line(serde_json::to_string(&value).context("write as JSON")?)?;
            } else {
                let (meaning, _) = meaning(said.outcome);
                let called = called(&self.model, said.version);
                show::line(format_args!(
                    "{} {} UTC  {called}  {meaning}: {}",
                    show::day(said.at),
                    show::clock(said.at),
                    show::whole(&said.why)
                ))?;
            }
        }
        self.told = gates.decisions;
        Ok(())
    }

    /// Tells that nothing is tried before `until`.
    pub fn waits(&self, until: Timestamp) -> anyhow::Result<()> {
        let why = "the budget of the day is spent, or a candidate was taken back today";
        if self.json {
            let value = json!({ "model": self.model, "outcome": "waits", "not_before": until, "why": why });
            return show::line(serde_json::to_string(&value).context("write as JSON")?);
        }
        show::line(format_args!("nothing is tried before {} {} UTC: {why}", show::day(until), show::clock(until)))
    }

    fn as_json(&self, said: &Said) -> Value {
        json!({ "model": self.model, "at": said.at, "outcome": said.outcome, "version": said.version, "why": said.why })
    }
}

fn called(model: &Name, version: Option<u64>) -> String {
    version.map_or_else(|| model.to_string(), |version| format!("{model}@{version}"))
}

/// Tells where fine-tuning of `model` stands at `now`, of which version `in_use` is in use.
pub fn status(model: &Name, gates: &Gates, in_use: Option<u64>, now: Timestamp, json: bool) -> anyhow::Result<()> {
    let today = gates.ledger.day == now.0 / 86_400_000;
    let (spent, taken_back) = if today { (gates.ledger.spent_minutes, gates.ledger.taken_back) } else { (0.0, false) };
    if json {
        return show::json(&json!({
            "model": model,
            "in_use": in_use,
            "stage": gates.stage,
            "spent_minutes_today": spent,
            "taken_back_today": taken_back,
            "decisions": gates.said,
        }));
    }
    let until = |until: Timestamp| format!("{} {} UTC", show::day(until), show::clock(until));
    show::line(match in_use {
        Some(version) => format!("{model}@{version} is in use"),
        None => format!("no version of {model} is in use: the model that comes along decides"),
    })?;
    show::line(match gates.stage {
        Stage::Rest { .. } if gates.said.is_empty() => {
            format!("nothing was fine-tuned yet; `qscale finetune {model} --once` tries one round")
        }
        Stage::Rest { until: next } if next > now => format!("there is no candidate; the next is learned after {}", until(next)),
        Stage::Rest { .. } => "there is no candidate; the next is learned as soon as `qscale finetune` runs".to_owned(),
        Stage::Shadow { trial, until: end, .. } => format!("{model}@{} is in the shadow until {}", trial.version, until(end)),
        Stage::Watch { trial, until: end, before, .. } => format!(
            "{model}@{} is in use and watched until {}; in the same time before {:.1} of {:.1} minutes were in violation",
            trial.version,
            until(end),
            before.violated_minutes,
            before.judged_minutes
        ),
    })?;
    let taken_back = if taken_back { "; a candidate was taken back, nothing else is tried today" } else { "" };
    show::line(format_args!("SLO-minutes that candidates under watch burned today (UTC): {}{taken_back}", show::number(spent)))?;
    if gates.said.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["AT", "MODEL", "DECISION", "BECAUSE"]);
    for said in gates.said.iter().rev() {
        let (meaning, tone) = meaning(said.outcome);
        table.row([
            Cell::new(until(said.at), Tone::Dim),
            called(model, said.version).into(),
            Cell::new(meaning, tone),
            Cell::new(show::clean(&said.why), Tone::Dim),
        ]);
    }
    table.print()
}
