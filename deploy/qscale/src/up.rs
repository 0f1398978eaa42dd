//! `qscale up`: the whole system on this machine, in the foreground. Owns the order of start and stop, and what a run came to.

pub(crate) mod board;
mod crowd;
pub(crate) mod launch;
pub(crate) mod plan;
pub(crate) mod supervisor;
mod view;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use qscale_common::contract::{EventType, Load, Outcome, State, subject};
use qscale_common::load::{FunctionLoad, LoadSummary};
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::{Bus, Subscription};
use qscale_common::runtime::{clock, shutdown};
use qscale_common::time::{Span, TickLength};
use qscale_common::workload::Pattern;
use qscale_dqn::registry::DQN;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::board::Board;
use self::launch::Running;
use self::plan::{Plan, Planned};
use self::supervisor::{Status, Statuses};
use self::view::View;
use crate::system::Locate;

/// Functions of which each has a sentence at the end, and a line now and then; of more only the worst have.
const SENTENCES: usize = 8;
const WORST: usize = 3;
/// How often the view is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// How often a line is printed where there is no terminal to draw on.
const PRINT_EVERY: Duration = Duration::from_secs(5);
/// How long after its planned end a load generator may drain.
const DRAIN_WITHIN: Duration = Duration::from_secs(45);

/// Where functions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Backend {
    /// On this machine, as processes
    #[default]
    Local,
    /// Nowhere: they are simulated, hundreds at once, in real time or faster
    Sim,
}

/// Run nats-server, local platform, collector, agent, actuator and load generator, and show what they do.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale up                                              fibonacci under a daily wave of two minutes, scaled both ways
  qscale up --for 60s --json --load step:5@0s,40@15s,5@40s
  qscale up --versus threshold-both                      the learned agent and a rule side by side under the same arrivals
  qscale up --model .qscale/training/model.dqn           by a model of your own
  qscale up --agent threshold --versus static            two agents side by side under the same arrivals
  qscale up --function my-function.toml --protocol http --load 20
  qscale up --backend sim --functions 200 --agent hpa    two hundred simulated functions
  qscale up --backend sim --speed 10 --for 10m --json --trace DIR --versus static")]
pub struct UpArgs {
    /// Where functions run
    #[arg(long, value_enum, value_name = "BACKEND", default_value_t)]
    pub backend: Backend,
    /// Stop after this time (90s, 10m); of the system's own time where that runs faster
    #[arg(long = "for", value_name = "TIME")]
    pub duration: Option<Span>,
    /// Offered load
    #[arg(long, help = load_help(), value_name = "PATTERN", default_value = "diurnal:3..40/2m")]
    pub load: String,
    /// Agent that scales the function
    #[arg(long, value_name = "NAME", default_value = DQN)]
    pub agent: Name,
    /// Run a second copy of the function under the same arrivals, scaled by this agent
    #[arg(long, value_name = "NAME")]
    pub versus: Option<Name>,
    /// What the agent dqn decides by: a checkpoint, or store:NAME for the version of NAME that is in use in the model store; store:dqn without this
    #[arg(long, value_name = "FILE|store:NAME", value_hint = clap::ValueHint::FilePath)]
    pub model: Option<String>,
    /// Function to run: fibonacci (without this), aes, faas, or a function file
    #[arg(long, value_name = "NAME|FILE", value_hint = clap::ValueHint::FilePath)]
    pub function: Option<String>,
    /// How requests are sent: relay, direct:SERVICE, faas, http; by default what suits the function
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// What each request asks for, such as name=50000 of fibonacci; by default some 15 ms of CPU; may be repeated
    #[arg(long = "input", value_name = "FIELD=VALUE")]
    pub inputs: Vec<String>,
    /// Functions to simulate; without this one, or up to 100 of a trace
    #[arg(long, value_name = "COUNT", help_heading = "Simulated functions")]
    pub functions: Option<u32>,
    /// How many times as fast as real time the whole system lives, 1 to 1000
    #[arg(long, value_name = "FACTOR", default_value_t = 1, help_heading = "Simulated functions")]
    pub speed: u32,
    /// What requests and starts ask for: a profile by name (fibonacci-python without this), or a file
    #[arg(long, value_name = "NAME|FILE", value_hint = clap::ValueHint::FilePath, help_heading = "Simulated functions")]
    pub profile: Option<String>,
    /// Play a trace instead of --load: a folder in InVitro's or Azure's format, a function of it for each
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, help_heading = "Simulated functions")]
    pub trace: Option<PathBuf>,
    /// How often is decided
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub tick: TickLength,
    /// Bound on the 95th percentile of latency
    #[arg(long, value_name = "TIME", default_value = "200ms")]
    pub slo: Span,
    /// Seed of the arrivals: the same seed, the same arrivals
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Print one summary object at the end on standard output
    #[arg(long)]
    pub json: bool,
    /// Plain lines instead of the live view
    #[arg(long)]
    pub plain: bool,
}

impl UpArgs {
    /// Refuses what the backend cannot do.
    fn check_backend(&self) -> anyhow::Result<()> {
        let (given, why) = match self.backend {
            Backend::Local => (
                [
                    ("speed", self.speed != 1),
                    ("functions", self.functions.is_some()),
                    ("profile", self.profile.is_some()),
                    ("trace", self.trace.is_some()),
                ],
                "real processes cannot be hurried or multiplied; add --backend sim to simulate functions",
            ),
            Backend::Sim => (
                [
                    ("function", self.function.is_some()),
                    ("protocol", self.protocol.is_some()),
                    ("input", !self.inputs.is_empty()),
                    ("", false),
                ],
                "simulated functions run nothing; --profile says what their requests ask for",
            ),
        };
        match given.into_iter().find(|(_, given)| *given) {
            Some((option, _)) => anyhow::bail!("--{option} does not go with --backend {}: {why}", self.backend_name()),
            None => Ok(()),
        }
    }

    fn backend_name(&self) -> &'static str {
        match self.backend {
            Backend::Local => "local",
            Backend::Sim => "sim",
        }
    }

    fn pattern(&self) -> anyhow::Result<Option<Pattern>> {
        if self.load == "none" {
            return Ok(None);
        }
        self.load.parse().map(Some).map_err(|error: String| anyhow::anyhow!("--load {}: {error}", self.load))
    }
}

fn load_help() -> String {
    format!("Offered load, requests/s over time: {}; none for no load", Pattern::grammars())
}

/// How a system is looked after while it is up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Whether it may be drawn on a terminal.
    pub drawn: bool,
    /// Whether its steps are told, and where it is not drawn lines tell of its functions.
    pub told: bool,
    /// Whether CPU must be limited, so that where it cannot there is nothing to see.
    pub limits: bool,
    /// How long; `None` until it is asked to end.
    pub duration: Option<Span>,
}

/// What came of a system that was up.
pub(crate) struct Lived {
    /// What was known of its functions at last.
    pub board: Board,
    /// What the load generator says that the load came to; `None` where there was none.
    pub load: Option<LoadSummary>,
}

impl Lived {
    /// What the load generator says of `function`.
    pub fn load_of(&self, function: &FunctionId) -> Option<&FunctionLoad> {
        self.load.as_ref()?.function(&function.to_string())
    }
}

/// Starts what `plan` says, has it live until it is over or `token` is cancelled, and stops it.
pub(crate) async fn live(plan: &Plan, look: Look, token: &CancellationToken) -> anyhow::Result<Lived> {
    let mut running = Running::new(plan, look.told)?;
    let started = tokio::select! {
        started = running.start(plan) => started,
        () = token.cancelled() => Err(anyhow::anyhow!("stopped while starting")),
    };
    let followed = match started {
        Ok(_) if look.limits && !running.can_limit() => Err(anyhow::anyhow!(
            "cgroups cannot be written here, so that CPU and memory are not limited and nothing would change; see `qscale doctor`"
        )),
        Ok(bus) => follow(plan, look, &running, &bus, token).await,
        Err(error) => Err(error),
    };
    let simulated = running.simulated_load().await;
    if look.told {
        say("stopping: load, agents, collector, actuator, platform, nats-server");
    }
    let ended = tokio::task::spawn_blocking(move || {
        running.stop();
        running
    })
    .await
    .context("the stop was interrupted")?;
    let board = followed?;
    let load = simulated.or_else(|| ended.load_summary());
    if load.is_none()
        && let Some(why) = ended.load_failure()
    {
        anyhow::bail!("the load generator sent nothing: {why}");
    }
    Ok(Lived { board, load })
}

/// Runs the system until it is asked to end.
pub async fn run(locate: &Locate, arguments: UpArgs) -> anyhow::Result<ExitCode> {
    let token = shutdown::token();
    let plan = Plan::new(locate, &arguments)?;
    clock::follow(plan.pace);
    let began = clock::now();
    let look = Look { drawn: !arguments.json && !arguments.plain, told: true, limits: false, duration: arguments.duration };
    let lived = live(&plan, look, &token).await?;
    let summary = |planned: &Planned| lived.board.summary(&planned.id, planned.agent.as_str(), lived.load_of(&planned.id).cloned());
    let summaries: Vec<_> = plan.functions.iter().map(summary).collect();
    let Lived { board, load } = lived;
    if board.missed_ticks() > 0 {
        say(&format!("warning: {}", falls_behind(board.missed_ticks(), &plan)));
    }
    if let Some(first) = board.first_change {
        say(&format!("first change of an allocation {:.1} s after the start", first.since(began).as_secs_f64()));
    }
    if arguments.json {
        let summary = serde_json::json!({
            "seconds": clock::now().since(began).as_secs_f64(),
            "seed": arguments.seed,
            "backend": arguments.backend_name(),
            "speed": arguments.speed,
            "load": plan.load_words,
            "missed_ticks": board.missed_ticks(),
            "void": load.as_ref().map(|load| load.void),
            "send_lag_us": load.as_ref().map(|load| load.send_lag_us),
            "functions": summaries,
        });
        writeln!(std::io::stdout(), "{summary}").context("standard output")?;
    } else {
        crowd::worst_first(&board, &plan.ids())
            .iter()
            .take(SENTENCES)
            .filter_map(|id| summaries.iter().find(|summary| summary.function == id.to_string()))
            .for_each(|summary| say(&sentence(summary)));
        if summaries.len() > SENTENCES {
            say(&format!("({} more functions; --json shows them all)", summaries.len() - SENTENCES));
        }
    }
    if let Some(load) = load.filter(|load| load.void) {
        say(&format!("the load generator declares its run void: {}", load.void_reasons.join("; ")));
    }
    Ok(ExitCode::SUCCESS)
}

/// Progress goes to standard error; standard output belongs to the summary.
pub(crate) fn say(text: &str) {
    // Whoever closed standard error does not want to know.
    let _closed = writeln!(std::io::stderr(), "{text}");
}

struct Streams {
    states: Subscription<State>,
    outcomes: Subscription<Outcome>,
    loads: Subscription<Load>,
}

impl Streams {
    async fn open(bus: &Bus) -> anyhow::Result<Self> {
        Ok(Self {
            states: bus.subscribe(subject::all(EventType::State), None).await?,
            outcomes: bus.subscribe(subject::all(EventType::Outcome), None).await?,
            loads: bus.subscribe(subject::all(EventType::Load), None).await?,
        })
    }

    fn take_in(&mut self, board: &mut Board) {
        while let Some(received) = self.states.try_next() {
            board.state(received.message);
        }
        while let Some(received) = self.outcomes.try_next() {
            board.outcome(&received.message);
        }
        while let Some(received) = self.loads.try_next() {
            board.load(received.message);
        }
    }
}

/// Shows what happens until the time is up, the load generator has ended, or somebody asks to end.
async fn follow(plan: &Plan, look: Look, running: &Running, bus: &Bus, token: &CancellationToken) -> anyhow::Result<Board> {
    let mut board = Board::default();
    let mut streams = Streams::open(bus).await?;
    running.start_load(plan).await?;
    let began = clock::instant();
    let mut view = View::open(look.drawn);
    let shown = plan.ids();
    let (mut missed, mut world) = (0, 0);
    let mut draw = tokio::time::interval(DRAW_EVERY);
    draw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut printed = clock::instant();
    loop {
        tokio::select! {
            () = token.cancelled() => break,
            _ = draw.tick() => {}
        }
        streams.take_in(&mut board);
        let statuses = running.statuses();
        let elapsed = began.elapsed() * plan.pace.speed();
        board.sample(&shown, clock::now());
        view.draw(&board, &statuses, &shown, &title(plan, running, elapsed), clock::now());
        if printed.elapsed() >= PRINT_EVERY {
            printed = clock::instant();
            if look.told && !view.is_open() {
                print_lines(&board, &shown, &statuses);
            }
            if board.missed_ticks() > missed {
                let warning = format!("warning: {}", falls_behind(board.missed_ticks() - missed, plan));
                if view.is_open() {
                    board.line(warning)
                } else if look.told {
                    say(&warning)
                }
                missed = board.missed_ticks();
            }
        }
        if let Some(restarts) = running.world_lost(world)
            && running.begin_anew(plan).await.is_ok()
        {
            board.line(format!("the simulated platform was started again ({restarts} times): its world begins anew"));
            world = restarts;
        }
        if view.asked_to_end(&board, &shown) || over(look, elapsed, &statuses) {
            break;
        }
    }
    view.close();
    streams.take_in(&mut board);
    Ok(board)
}

/// Whether the run is over: the load generator ended by itself, or without load the time is up.
fn over(look: Look, elapsed: Duration, statuses: &Statuses) -> bool {
    let load = statuses.get(launch::LOAD).map(|(status, _)| *status);
    match (load, look.duration) {
        (Some(Status::Ended(_)), _) => true,
        (_, None) => false,
        (Some(_), Some(Span(planned))) => elapsed >= planned.saturating_add(DRAIN_WITHIN),
        (None, Some(Span(planned))) => elapsed >= planned,
    }
}

fn title(plan: &Plan, running: &Running, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    match plan.backend {
        Backend::Local => format!("qscale  {seconds:.0} s  load {}  gateway {}  (q ends)", plan.load_words, running.gateway()),
        Backend::Sim => {
            let count = plan.functions.len();
            format!(
                "qscale  {seconds:.0} s at speed {}  {count} simulated functions  load {}  (q ends)",
                plan.pace.speed(),
                plan.load_words
            )
        }
    }
}

/// That ticks were missed, and the way out.
fn falls_behind(ticks: u64, plan: &Plan) -> String {
    let way_out = match plan.backend {
        Backend::Sim if plan.pace.speed() > 1 => "lower --speed, simulate fewer --functions, or decide less often (--tick)",
        Backend::Sim => "simulate fewer --functions, or decide less often (--tick)",
        Backend::Local => "decide less often (--tick), or see what else keeps this machine busy",
    };
    format!("{ticks} ticks of functions passed without a State: the system cannot keep up; {way_out}")
}

fn print_lines(board: &Board, shown: &[FunctionId], statuses: &Statuses) {
    if shown.len() > SENTENCES {
        say(&crowd::Totals::of(board, shown).to_string());
    }
    let worst = crowd::worst_first(board, shown);
    for function in worst.iter().take(if shown.len() > SENTENCES { WORST } else { SENTENCES }) {
        match board.functions.get(function) {
            Some(entry) => {
                let lines: Vec<String> = view::describe(entry).iter().map(ToString::to_string).collect();
                say(&format!("{function}  {}", lines.join("; ")));
            }
            None => say(&format!("{function}  nothing measured yet")),
        }
    }
    for (name, (status, _)) in statuses.iter().filter(|(_, (status, _))| *status == Status::Restarting) {
        say(&format!("{name}  {status:?}"));
    }
}

fn sentence(summary: &board::Summary) -> String {
    let load = summary.load.as_ref().map_or_else(String::new, |load| {
        let latency = load
            .latency_ms
            .map_or_else(String::new, |latency| format!("p50 {} ms, p95 {} ms, p99 {} ms; ", latency.p50, latency.p95, latency.p99));
        format!("{} sent, {} answered well, {} failed; {latency}", load.sent, load.succeeded, load.failed)
    });
    let most = summary.max_allocation.map_or_else(|| "unknown".to_owned(), |most| most.to_string());
    format!(
        "{} under {}: {load}allocation mean {:.2} replicas and {:.2} cores, at most {most}; {:.1} core-seconds; {} actions, {} changes, {} guard interventions",
        summary.function,
        summary.agent,
        summary.mean_allocation.replicas,
        summary.mean_allocation.cores,
        summary.core_seconds,
        summary.actions,
        summary.changes,
        summary.guard_interventions
    )
}

/// The folder in which this program lies; the services lie beside it.
pub(crate) fn beside(program: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this program")?;
    let path = own.with_file_name(program);
    anyhow::ensure!(path.is_file(), "{} is missing; build it with `make build`", path.display());
    Ok(path)
}
