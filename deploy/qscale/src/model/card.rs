//! A model card for people and programs. Owns the wording.

use qscale_common::time::Span;
use qscale_dqn::Checkpoint;
use qscale_dqn::checkpoint::Evaluation;
use qscale_dqn::tasks::{Split, TaskDistribution};
use serde_json::{Value, json};

use crate::output::{self, Table};

/// A model with its name.
pub struct NamedModel<'a> {
    name: String,
    checkpoint: &'a Checkpoint,
    bytes: usize,
}

impl<'a> NamedModel<'a> {
    /// The card of `checkpoint`.
    pub fn new(name: String, checkpoint: &'a Checkpoint) -> Self {
        Self { name, checkpoint, bytes: checkpoint.to_bytes().len() }
    }

    /// Mismatch with this version; `None` if there is none.
    fn mismatch(&self) -> Option<String> {
        self.checkpoint.check().err().map(|error| error.to_string())
    }

    /// The card as JSON.
    pub fn as_json(&self) -> Value {
        json!({
            "model": self.name,
            "fingerprint": self.checkpoint.fingerprint(),
            "bytes": self.bytes,
            "mismatch": self.mismatch(),
            "header": self.checkpoint.header,
        })
    }

    /// Prints the card.
    pub fn print(&self) -> anyhow::Result<()> {
        output::line(self.text())
    }

    fn text(&self) -> String {
        let header = &self.checkpoint.header;
        let mut text = String::new();
        let mut row = |name: &str, value: String| text += &format!("{name:<13}{}\n", output::whole(&value));
        row("model", format!("{} ({})", self.name, size(self.bytes)));
        row("fingerprint", self.checkpoint.fingerprint());
        if let Some(mismatch) = self.mismatch() {
            row("refused", format!("{mismatch}; agents of this version refuse it"));
        }
        row("network", self.network());
        row("actions", format!("{}, {}: {} actions, {}", header.action_set, header.scope, header.actions.len(), list(&header.actions)));
        match &header.card {
            None => row("trained by", "unknown: still in training, or not trained by `qscale train`".to_owned()),
            Some(card) => {
                row("trained by", card.command.clone());
                row(
                    "trained on",
                    format!("{} ticks of simulated functions, in {} updates", thousands(card.ticks), thousands(header.updates)),
                );
                row("tasks", tasks(&card.tasks));
                if let Some(card) = &card.specialist {
                    row("specialist", "separate network for functions that always keep a replica".to_owned());
                    row("  trained by", card.command.clone());
                    row("  trained on", format!("{} ticks of simulated functions", thousands(card.ticks)));
                    row("  tasks", tasks(&card.tasks));
                }
            }
        }
        row("seed", header.seed.to_string());
        if !header.note.is_empty() {
            row("note", header.note.clone());
        }
        if let Some(card) = header.card.as_ref().filter(|card| !card.evaluations.is_empty()) {
            text += &format!("\n{}\n", evaluation_table(&card.evaluations).render());
            text += "violated: share of ticks, partial near the latency bound; cost: multiple of the usual load's cost at full utilisation";
        }
        text.trim_end().to_owned()
    }

    fn network(&self) -> String {
        let architecture = &self.checkpoint.header.architecture;
        let hidden: Vec<String> = architecture.hidden.iter().map(ToString::to_string).collect();
        let mut parts = Vec::new();
        if architecture.dueling {
            parts.push("dueling");
        }
        if architecture.layer_norm {
            parts.push("layer norm");
        }
        let (quantiles, branches) = (format!("{} quantiles", architecture.quantiles), format!("{} branches", architecture.branches.len()));
        parts.extend((architecture.quantiles > 1).then_some(&*quantiles));
        parts.extend((!architecture.branches.is_empty()).then_some(&*branches));
        let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
        let weights = thousands(self.checkpoint.weights.values().len() as u64);
        let layers = if hidden.is_empty() { "no hidden layer".to_owned() } else { format!("layers of {}", hidden.join(" and ")) };
        format!("{} features, {layers}{parts}; {weights} weights", architecture.inputs)
    }
}

fn evaluation_table(evaluations: &[Evaluation]) -> Table {
    let mut table = Table::new(&["POLICY", "TASKS", "VIOLATED", "COST", "REVERSALS", "REWARD"]);
    for Evaluation { policy, split: part, worlds, mean } in evaluations {
        let part = match part {
            Split::Training => "training",
            Split::Validation => "validation",
            Split::Test => "test",
        };
        table.row([
            output::clean(policy).into(),
            format!("{worlds} {part}").into(),
            format!("{:.2} %", mean.violation * 100.0).into(),
            format!("{:.3}", mean.cost).into(),
            format!("{:.2} %", mean.reversal * 100.0).into(),
            format!("{:.3}", mean.reward).into(),
        ]);
    }
    table
}

fn tasks(tasks: &TaskDistribution) -> String {
    let TaskDistribution { ticks, most_rps, perturbed_share, sparse_share } = tasks;
    let ticks: Vec<String> = ticks.iter().take(10).map(Span::to_string).collect();
    format!(
        "ticks of {}, up to {} requests/s; {:.0} % sparse functions, {:.0} % of tasks with perturbations",
        ticks.join(" "),
        output::number(*most_rps),
        sparse_share * 100.0,
        perturbed_share * 100.0
    )
}

/// The first of `names`, with an ellipsis if there are more.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown}, ...") } else { shown }
}

/// A size, `127 kB` or `3.1 MB`.
pub fn size(bytes: usize) -> String {
    let bytes = bytes as f64;
    if bytes < 1e6 { format!("{} kB", output::number(bytes / 1e3)) } else { format!("{} MB", output::number(bytes / 1e6)) }
}

/// A count with thousands separators.
fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use qscale_dqn::pretrained::pretrained;

    use super::*;

    #[test]
    fn card_shows_training_and_evaluation() {
        let text = NamedModel::new("pretrained".into(), pretrained()).text();
        for part in
            ["fingerprint", "trained by   qscale train", "ticks of simulated functions", "tasks        ticks of 5s", "seed", "POLICY"]
        {
            assert!(text.contains(part), "`{part}` in {text}");
        }
        let judged = pretrained().header.card.as_ref().expect("a card").evaluations.iter();
        assert!(judged.filter(|judged| !judged.policy.starts_with("dqn")).all(|rule| text.contains(&rule.policy)), "{text}");
        assert!(!text.contains("refused"), "{text}");
    }

    #[test]
    fn card_escapes_text_and_shows_a_mismatch() {
        let mut model = pretrained().clone();
        model.header.note = "\x1b[2J".into();
        model.header.observation = 0;
        model.header.card = None;
        let text = NamedModel::new("mine@1".into(), &model).text();
        let text = output::plain(&text);
        assert!(text.contains("\\u{1b}[2J") && !text.contains('\x1b'), "{text}");
        assert!(text.lines().any(|line| line.starts_with("refused ")), "{text}");
        assert!(text.lines().any(|line| line.starts_with("trained by   unknown")), "{text}");
    }

    #[test]
    fn counts_and_sizes_are_short() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([127_302, 3_100_000].map(size), ["127 kB", "3.1 MB"]);
    }
}
