//! `qscale why`: explains one decision. Owns the arguments and which decision is meant; the explanation is that of `qscale_replay`.

use clap::Args;
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::clock;
use qscale_common::time::Timestamp;
use qscale_replay::explain::missing_decision;
use qscale_replay::{Explanation, recording};

use crate::output;
use crate::system::Locate;

/// Which decision is explained.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale why fibonacci                      the last decision of the acting agent
  qscale why fibonacci --agent hpa          of a shadow
  qscale why fibonacci --tick 352786156     an earlier decision; `qscale replay fibonacci --csv` lists the ticks
  qscale why fibonacci --json | jq .limitations

HPA and VPA decide on the same States with their default parameters and with memory rebuilt from the retained States. Unknown figures, estimates and assumptions are
listed under \"Limitations\".")]
pub struct WhyArgs {
    /// namespace/name, or name
    #[arg(value_name = "FUNCTION")]
    function: FunctionId,
    /// Agent that decided; by default the acting one
    #[arg(long, value_name = "NAME")]
    agent: Option<Name>,
    /// Tick of the decision; by default the last one
    #[arg(long, value_name = "NUMBER")]
    tick: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Explains a decision.
pub async fn run(locate: &Locate, arguments: WhyArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let function = &arguments.function;
    let newest = recording::last_state(&bus, function).await?;
    let agent = arguments.agent.unwrap_or(newest.agent);
    let action = match arguments.tick {
        None => recording::last_action(&bus, &agent, function).await?,
        Some(tick) => {
            let begin = Timestamp(tick.saturating_mul(newest.tick_length_ms));
            recording::action_at(&bus, &agent, function, begin, tick).await?
        }
    };
    let Some(action) = action else {
        return Err(missing_decision(&bus, &agent, function, arguments.tick, clock::now()).await?);
    };
    let explanation = Explanation::read(&bus, &locate.agent_settings(), function, action).await?;
    if arguments.json { output::json(&explanation) } else { output::line(explanation.text(clock::now())) }
}
