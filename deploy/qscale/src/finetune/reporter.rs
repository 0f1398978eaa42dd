//! Decisions of the promoter as text and as JSON. Owns their form; must not decide.

use qscale_common::name::Name;
use qscale_common::time::Timestamp;
use qscale_promote::promotion::DecisionLogEntry;
use qscale_promote::{Promotion, PromotionDecision, PromotionRequest, Stage};
use serde_json::{Value, json};

use crate::output::{self, Table, TableCell, Tone};

/// Prints each decision once.
pub struct Reporter {
    /// The model.
    pub model: Name,
    /// Whether to print JSON.
    pub json: bool,
    /// Decisions that were printed, or made before.
    pub seen: u64,
}

/// Text and tone of a decision.
fn description(decision: PromotionDecision) -> (&'static str, Tone) {
    match decision {
        PromotionDecision::TooLittle => ("no candidate", Tone::Dim),
        PromotionDecision::RejectedOffline => ("offline gate: rejected", Tone::Plain),
        PromotionDecision::Shadow => ("offline gate: passed, in the shadow", Tone::Good),
        PromotionDecision::RejectedInShadow => ("shadow gate: rejected", Tone::Plain),
        PromotionDecision::Recommended => ("shadow gate: passed, recommended", Tone::Good),
        PromotionDecision::Used => ("shadow gate: passed, in use under watch", Tone::Good),
        PromotionDecision::Kept => ("watch: kept", Tone::Good),
        PromotionDecision::RolledBack => ("watch: rolled back", Tone::Bad),
        PromotionDecision::Superseded => ("superseded", Tone::Warn),
    }
}

/// Says that no candidate will be put in use, if there is no budget.
pub fn note_budget(budget_minutes: Option<f64>) -> anyhow::Result<()> {
    if budget_minutes.is_some_and(|budget| budget > 0.0) {
        return Ok(());
    }
    output::line(
        "no candidate will be put in use: that needs --budget MINUTES, the violation minutes per day that candidates under watch may spend",
    )
}

impl Reporter {
    /// Prints new decisions. No other candidate is tried before `not_before`.
    pub fn report(&mut self, promotion: &Promotion, not_before: Timestamp) -> anyhow::Result<()> {
        for entry in promotion.log_since(self.seen) {
            if self.json {
                let mut value = self.to_json(entry);
                value["not_before"] = json!(not_before);
                output::json_line(&value)?;
            } else {
                let (description, _) = description(entry.decision);
                let name = versioned(&self.model, entry.version);
                let (day, time) = (output::day(entry.at), output::clock(entry.at));
                output::line(format_args!("{day} {time} UTC  {name}  {description}: {}", output::whole(&entry.reason)))?;
            }
        }
        self.seen = promotion.decisions;
        Ok(())
    }

    /// Says that no candidate is tried before `until`.
    pub fn not_tried(&self, until: Timestamp) -> anyhow::Result<()> {
        let reason = "the daily budget is spent, or a candidate was rolled back today";
        if self.json {
            let value = json!({ "model": self.model, "decision": "not_tried", "not_before": until, "reason": reason });
            return output::json_line(&value);
        }
        output::line(format_args!(
            "no candidate is tried before {} {} UTC: {reason}; request a round again after that",
            output::day(until),
            output::clock(until)
        ))
    }

    fn to_json(&self, entry: &DecisionLogEntry) -> Value {
        let DecisionLogEntry { at, decision, version, reason } = entry;
        json!({ "model": self.model, "at": at, "decision": decision, "version": version, "reason": reason })
    }
}

fn versioned(model: &Name, version: Option<u64>) -> String {
    version.map_or_else(|| model.to_string(), |version| format!("{model}@{version}"))
}

fn time(at: Timestamp) -> String {
    format!("{} {} UTC", output::day(at), output::clock(at))
}

/// Prints the state of the promotion of `model` at `now`.
pub fn status(
    model: &Name,
    promotion: &Promotion,
    request: &PromotionRequest,
    in_use: Option<u64>,
    now: Timestamp,
    json: bool,
) -> anyhow::Result<()> {
    let (spent, rolled_back) = (promotion.spent_today(now), promotion.rolled_back_today(now));
    if json {
        return output::json(&json!({
            "model": model,
            "in_use": in_use,
            "stage": promotion.stage,
            "spent_minutes_today": spent,
            "rolled_back_today": rolled_back,
            "periodic": request.periodic,
            "round": promotion.round,
            "decisions": promotion.log,
        }));
    }
    output::line(match in_use {
        Some(version) => format!("{model}@{version} is in use"),
        None => format!("no version of {model} is in use: the bundled model decides"),
    })?;
    output::line(match promotion.stage {
        Stage::Rest { until } => match &request.periodic {
            None if promotion.log.is_empty() => format!("never fine-tuned; `qscale finetune {model} --once` starts a round"),
            None => "no candidate; periodic rounds are off".to_owned(),
            Some(_) if until > now => format!("no candidate; next round after {}", time(until)),
            Some(_) => "no candidate; a round is due".to_owned(),
        },
        Stage::Shadow { trial, until, .. } => format!("{model}@{} is in the shadow until {}", trial.version, time(until)),
        Stage::Watch { trial, until, before, .. } => {
            format!("{model}@{} is in use under watch until {}; before: {before}", trial.version, time(until))
        }
    })?;
    let rolled_back = if rolled_back { "; a candidate was rolled back, no other is tried today" } else { "" };
    output::line(format_args!("violation minutes of candidates under watch today (UTC): {}{rolled_back}", output::number(spent)))?;
    if promotion.log.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["AT", "MODEL", "DECISION", "REASON"]);
    for entry in promotion.log.iter().rev() {
        let (description, tone) = description(entry.decision);
        table.row([
            TableCell::new(time(entry.at), Tone::Dim),
            versioned(model, entry.version).into(),
            TableCell::new(description, tone),
            TableCell::new(output::clean(&entry.reason), Tone::Dim),
        ]);
    }
    table.print()
}
