//! The whole system on one machine: nats-server, a platform, collector, actuator, agents and load generator, with a live view.
//!
//! Owns the order of start and stop, and the result of a run. Must not decide allocations or measure latency: the services do.

pub mod bus;
mod copies;
pub mod dashboard;
pub mod doctor;
pub mod launch;
pub mod load;
pub mod many;
pub mod options;
pub mod pending;
pub mod plan;
mod ports;
pub mod repair;
pub mod state_dir;
pub mod storage;
pub mod supervisor;
mod view;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use qscale_common::contract::{EventType, Load, Outcome, State, subject};
use qscale_common::load::{FunctionLoad, LoadSummary};
use qscale_common::name::FunctionId;
use qscale_common::runtime::bus::{Bus, Subscription};
use qscale_common::runtime::clock;
pub use qscale_common::runtime::telemetry::say;
use qscale_common::time::Span;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::dashboard::Dashboard;
use self::launch::RunningSystem;
pub use self::load::{LoadPlan, RequestForm};
pub use self::options::{BackendKind, UpOptions};
use self::plan::Plan;
use self::repair::RepairReport;
use self::state_dir::StateDir;
use self::supervisor::{Status, Statuses};
use self::view::{View, ViewHeader};

/// Up to this number of functions, each has a line of its own in printed output.
pub const LINES: usize = 8;
/// Of more functions, this number of the worst has a line.
const WORST: usize = 3;
/// Interval between two drawings of the view.
const DRAW_INTERVAL: Duration = Duration::from_millis(250);
/// Interval between two reports without a terminal.
const PRINT_INTERVAL: Duration = Duration::from_secs(5);
/// Time after its planned end within which the load generator drains.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(45);

/// Display, length and requirements of a run.
#[derive(Debug, Clone, Copy)]
pub struct ViewOptions {
    /// Whether it may be drawn on a terminal.
    pub draw: bool,
    /// Whether steps and, without a terminal, the state of the functions are printed.
    pub print: bool,
    /// Whether to fail where CPU and memory cannot be limited.
    pub require_limits: bool,
    /// Length of the run; until it is cancelled where it is `None`.
    pub duration: Option<Span>,
}

/// The result of a run.
pub struct SystemRun {
    /// The functions at the end of the run.
    pub dashboard: Dashboard,
    /// Summary of the load; `None` without load.
    pub load: Option<LoadSummary>,
}

impl SystemRun {
    /// Summary of the load on `function`.
    pub fn load_of(&self, function: &FunctionId) -> Option<&FunctionLoad> {
        self.load.as_ref()?.function(&function.to_string())
    }
}

/// Starts the system of `plan`, waits until the run is over or `token` is cancelled, and stops it. Its files are kept in `state`.
///
/// # Errors
/// When another system runs in the folder, a program is missing, a service does not become ready within a minute, or the load generator sends nothing.
pub async fn run_until_done(plan: &Plan, state: &StateDir, view: ViewOptions, token: &CancellationToken) -> anyhow::Result<SystemRun> {
    let mut running = RunningSystem::new(plan, state, view.print)?;
    let started = tokio::select! {
        started = running.start(plan) => started,
        () = token.cancelled() => Err(anyhow::anyhow!("stopped during start-up")),
    };
    let followed = match started {
        Ok(_) if view.require_limits && !running.can_limit() => Err(anyhow::anyhow!(
            "cgroups are not writable, so CPU and memory cannot be limited and a vertical run shows nothing; see `qscale doctor`"
        )),
        Ok(bus) => match running.start_repair() {
            Ok((report, repair)) => {
                let followed = follow(plan, view, &running, &bus, &report, token).await;
                repair.abort();
                followed
            }
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    let simulated = running.simulated_load().await;
    if view.print {
        say("stopping load, agents, collector, actuator, platform, nats-server");
    }
    let ended = tokio::task::spawn_blocking(move || {
        running.stop();
        running
    })
    .await
    .context("failed to stop the system")?;
    let dashboard = followed?;
    let load = simulated.or_else(|| ended.load_summary());
    if load.is_none()
        && let Some(reason) = ended.load_failure()
    {
        anyhow::bail!("the load generator failed: {reason}");
    }
    Ok(SystemRun { dashboard, load })
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

    /// Moves the messages that have arrived to the dashboard.
    fn drain(&mut self, dashboard: &mut Dashboard) {
        while let Some(received) = self.states.try_next() {
            dashboard.state(received.message);
        }
        while let Some(received) = self.outcomes.try_next() {
            dashboard.outcome(&received.message);
        }
        while let Some(received) = self.loads.try_next() {
            dashboard.load(received.message);
        }
    }
}

/// Shows the system until the time is up, the load generator ends, or the user quits.
async fn follow(
    plan: &Plan,
    view: ViewOptions,
    running: &RunningSystem,
    bus: &Bus,
    repair: &RepairReport,
    token: &CancellationToken,
) -> anyhow::Result<Dashboard> {
    let mut dashboard = Dashboard::default();
    let mut streams = Streams::open(bus).await?;
    running.start_load(plan).await?;
    let began = clock::instant();
    let mut screen = View::open(view.draw);
    let mut shown = plan.ids();
    let (mut missed, mut world) = (0, 0);
    let mut draw = tokio::time::interval(DRAW_INTERVAL);
    draw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut printed = clock::instant();
    loop {
        tokio::select! {
            () = token.cancelled() => break,
            _ = draw.tick() => {}
        }
        streams.drain(&mut dashboard);
        if plan.backend == BackendKind::Kubernetes {
            shown = dashboard.functions.keys().cloned().collect();
        }
        let statuses = running.statuses();
        let now = clock::instant();
        let elapsed = now.duration_since(began) * plan.clock_rate.speed();
        dashboard.sample(&shown, clock::now());
        for event in repair.take_events() {
            if screen.is_open() {
                dashboard.line(event);
            } else {
                say(event);
            }
        }
        let head = ViewHeader { title: title(plan, running, elapsed), problems: repair.problems() };
        screen.draw(&dashboard, &statuses, &shown, &head, clock::now());
        if now.duration_since(printed) >= PRINT_INTERVAL {
            printed = now;
            if view.print && !screen.is_open() {
                print_lines(&dashboard, &shown, &statuses);
            }
            if dashboard.missed_ticks() > missed {
                let warning = format!("warning: {}", lag_warning(dashboard.missed_ticks() - missed, plan));
                if screen.is_open() {
                    dashboard.line(warning);
                } else if view.print {
                    say(&warning);
                }
                missed = dashboard.missed_ticks();
            }
        }
        if let Some(restarts) = running.world_restarts(world)
            && running.restore_world(plan).await.is_ok()
        {
            dashboard.line(format!("the simulated platform restarted (restart {restarts}); its functions start from their initial state"));
            world = restarts;
        }
        if screen.quit_requested(&dashboard, &shown) || is_over(view, elapsed, &statuses) {
            break;
        }
    }
    screen.close();
    streams.drain(&mut dashboard);
    Ok(dashboard)
}

/// Whether the run is over: the load generator ended by itself or, without load, the time is up.
fn is_over(view: ViewOptions, elapsed: Duration, statuses: &Statuses) -> bool {
    let load = statuses.get(launch::LOAD).map(|service| service.status);
    match (load, view.duration) {
        (Some(Status::Ended(_)), _) => true,
        (_, None) => false,
        (Some(_), Some(Span(planned))) => elapsed >= planned.saturating_add(DRAIN_TIMEOUT),
        (None, Some(Span(planned))) => elapsed >= planned,
    }
}

fn title(plan: &Plan, running: &RunningSystem, elapsed: Duration) -> String {
    let (seconds, load) = (elapsed.as_secs_f64(), &plan.load_description);
    match plan.backend {
        BackendKind::Local => format!("qscale  {seconds:.0} s  load {load}  gateway {}  (q quits)", running.gateway()),
        BackendKind::Sim => {
            let (speed, count) = (plan.clock_rate.speed(), plan.functions.len());
            format!("qscale  {seconds:.0} s at speed {speed}  {count} simulated functions  load {load}  (q quits)")
        }
        BackendKind::Kubernetes => format!("qscale  {seconds:.0} s  workloads of the cluster  (q quits)"),
    }
}

/// A warning that ticks were missed, with the remedy.
pub fn lag_warning(ticks: u64, plan: &Plan) -> String {
    let remedy = match plan.backend {
        BackendKind::Sim if plan.clock_rate.speed() > 1 => "lower --speed, reduce --functions, or lengthen --tick",
        BackendKind::Sim => "reduce --functions, or lengthen --tick",
        BackendKind::Local => "lengthen --tick, or stop other work on this machine",
        BackendKind::Kubernetes => "lengthen the ticks of the policies, or stop other work on this machine",
    };
    format!("{ticks} ticks without a State: the system is overloaded; {remedy}")
}

fn print_lines(dashboard: &Dashboard, shown: &[FunctionId], statuses: &Statuses) {
    if shown.len() > LINES {
        say(many::SystemTotals::of(dashboard, shown));
    }
    let worst = many::worst_first(dashboard, shown);
    for function in worst.iter().take(if shown.len() > LINES { WORST } else { LINES }) {
        match dashboard.functions.get(function) {
            Some(record) => {
                let lines: Vec<String> = view::describe(record).iter().map(ToString::to_string).collect();
                say(format_args!("{function}  {}", lines.join("; ")));
            }
            None => say(format_args!("{function}  no measurement yet")),
        }
    }
    for (name, service) in statuses.iter().filter(|(_, service)| service.status == Status::Restarting) {
        let reason = service.start_error.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        say(format_args!("{name}  restarting{reason}"));
    }
}

/// Path of another program of the project, in the folder of this one.
///
/// # Errors
/// When there is no such file.
pub fn sibling_program(program: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("failed to find the path of this program")?;
    let path = own.with_file_name(program);
    anyhow::ensure!(path.is_file(), "{} is missing; build it with `make build`", path.display());
    Ok(path)
}
