//! `qscale up`: the whole system on this machine, in the foreground. Owns the order of start and stop, and what a run came to.

pub mod board;
pub mod crowd;
pub mod launch;
pub mod load;
pub mod options;
pub mod plan;
pub mod state_dir;
pub mod supervisor;
mod view;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use qscale_common::contract::{EventType, Load, Outcome, State, subject};
use qscale_common::name::FunctionId;
use qscale_common::runtime::bus::{Bus, Subscription};
use qscale_common::runtime::clock;
use qscale_common::time::Span;
use serde_json::Value;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::board::Board;
use self::launch::Running;
pub use self::load::{LoadPlan, RequestForm};
pub use self::options::{Backend, UpArgs};
use self::plan::Plan;
use self::state_dir::StateDir;
use self::supervisor::{Status, Statuses};
use self::view::View;

/// Functions of which each has a sentence at the end, and a line now and then; of more only the worst have.
pub const SENTENCES: usize = 8;
const WORST: usize = 3;
/// How often the view is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// How often a line is printed where there is no terminal to draw on.
const PRINT_EVERY: Duration = Duration::from_secs(5);
/// How long after its planned end a load generator may drain.
const DRAIN_WITHIN: Duration = Duration::from_secs(45);

/// How a system is looked after while it is up.
#[derive(Debug, Clone, Copy)]
pub struct Look {
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
pub struct Lived {
    /// What was known of its functions at last.
    pub board: Board,
    /// What the load generator says that the load came to; `None` where there was none.
    pub load: Option<Value>,
}

impl Lived {
    /// What the load generator says of `function`.
    pub fn load_of(&self, function: &FunctionId) -> Option<Value> {
        self.load.as_ref()?["functions"].as_array()?.iter().find(|line| line["function"] == function.to_string()).cloned()
    }
}

/// Starts what `plan` says, has it live until it is over or `token` is cancelled, and stops it.
pub async fn live(plan: &Plan, state: &StateDir, look: Look, token: &CancellationToken) -> anyhow::Result<Lived> {
    let mut running = Running::new(plan, state, look.told)?;
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

/// Progress goes to standard error; standard output belongs to the summary.
pub fn say(text: &str) {
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
    let load = statuses.get(launch::LOAD).map(|service| service.status);
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
        Backend::Local => format!("qscale  {seconds:.0} s  load {}  gateway {}  (q ends)", plan.load_description, running.gateway()),
        Backend::Sim => {
            let count = plan.functions.len();
            format!(
                "qscale  {seconds:.0} s at speed {}  {count} simulated functions  load {}  (q ends)",
                plan.pace.speed(),
                plan.load_description
            )
        }
    }
}

/// That ticks were missed, and the way out.
pub fn falls_behind(ticks: u64, plan: &Plan) -> String {
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
    for (name, service) in statuses.iter().filter(|(_, service)| service.status == Status::Restarting) {
        let reason = service.start_error.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        say(&format!("{name}  restarting{reason}"));
    }
}

/// The folder in which this program lies; the services lie beside it.
pub fn beside(program: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this program")?;
    let path = own.with_file_name(program);
    anyhow::ensure!(path.is_file(), "{} is missing; build it with `make build`", path.display());
    Ok(path)
}
