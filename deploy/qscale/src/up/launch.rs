//! What runs on one machine, and how it is started. Owns the configuration of each service; must not look at what services tell each other.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use qscale_common::contract::subject;
use qscale_common::load::LoadSummary;
use qscale_common::name::Name;
use qscale_common::platform::AllocationRequest;
use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_common::runtime::clock::{self, ClockRate};
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::runtime::{nats_permissions, provision};
use qscale_common::time::Span;
use serde_json::{Value, json};

use super::plan::{Plan, Planned, copy_of};
use super::supervisor::{Service, Status, Statuses, Supervisor};
use super::{Backend, beside, say};
use crate::store;
use crate::system::{Addresses, StateDir, find_nats_server, write_private};

/// What the platform is called, whichever it is.
const PLATFORM: &str = "platform";
/// What the load generator is called.
pub const LOAD: &str = "loadgen";
/// What its run came to.
const LOAD_OUTPUT: &str = "load.json";
/// How long load is sent where nobody says when to stop.
const UNTIL_STOPPED: Span = Span::seconds(365 * 24 * 3600);
/// What a request to the function `faas` takes, milliseconds of CPU.
const DEMAND_MS: &str = "15";

/// Exit codes of the load generator where it did not run: an error, and a command line that it does not understand.
const FAILED: i32 = 1;
const WRONG_COMMAND_LINE: i32 = 2;

/// How long a server may take to answer at the start.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long most services may take to stop, and how long the platform may, which lets requests finish.
const STOP_WITHIN: Duration = Duration::from_secs(15);
const PLATFORM_STOPS_WITHIN: Duration = Duration::from_secs(40);

/// How often the actuator stores what it must not forget, and how often simulated load is told, in real time: neither is worth more messages where
/// the system lives faster.
const STORE_EVERY: Duration = Duration::from_secs(10);
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Longest period that a service takes.
const LONGEST_PERIOD: Duration = Duration::from_secs(3600);
/// Largest answer of the simulated platform's metrics that the collector takes, MiB: 2,000 functions of 20 replicas.
const METRICS_MIB: u32 = 512;

/// A system that is being started, runs, or was stopped.
pub struct Running {
    supervisor: Supervisor,
    state: StateDir,
    addresses: Addresses,
    backend: Backend,
    pace: ClockRate,
    limits: bool,
    /// Whether its steps are told.
    told: bool,
    // Held for as long as the system is up, so that a second one in the same folder is refused.
    _lock: File,
    // Held by the one system of this machine that has the usual ports.
    _usual_ports: Option<File>,
}

impl Running {
    /// Takes the state folder and chooses addresses; `told` has it say what it does.
    pub fn new(plan: &Plan, told: bool) -> anyhow::Result<Self> {
        let state = plan.state.clone();
        let lock = File::create(state.join("lock")).context("the state folder")?;
        lock.try_lock().map_err(|_| {
            anyhow::anyhow!("{}: another `qscale up` runs there; stop it, or choose another --state-dir", state.join("").display())
        })?;
        // It tells of an earlier run.
        let _absent = std::fs::remove_file(state.join(LOAD_OUTPUT));
        let usual_ports = claim_usual_ports();
        let address = |usual| address(usual_ports.is_some().then_some(usual));
        let mut health = BTreeMap::new();
        for (service, port) in [("collector", 8711), ("actuator", 8713)] {
            health.insert(service.to_owned(), address(port)?.to_string());
        }
        for (index, agent) in plan.agents.iter().enumerate() {
            health.insert(format!("agent-{agent}"), address(8721 + u16::try_from(index)?)?.to_string());
        }
        let addresses = Addresses {
            nats: format!("nats://{}", address(4222)?),
            platform: address(8701)?.to_string(),
            gateway: match plan.backend {
                Backend::Local => address(8700)?.to_string(),
                Backend::Sim => "none: requests are simulated".to_owned(),
            },
            health,
            pid: std::process::id(),
            clock: (plan.pace.speed() > 1).then(|| plan.pace.to_string()),
        };
        let (backend, pace) = (plan.backend, plan.pace);
        let supervisor = Supervisor::new();
        Ok(Self { supervisor, state, addresses, backend, pace, limits: true, told, _lock: lock, _usual_ports: usual_ports })
    }

    /// Starts everything but the load, in order; returns the operator's connection.
    pub async fn start(&mut self, plan: &Plan) -> anyhow::Result<Bus> {
        let bus = self.start_nats(plan).await?;
        let platform = match self.backend {
            Backend::Local => self.start_platform().await?,
            Backend::Sim => self.start_simulated_platform().await?,
        };
        match self.backend {
            Backend::Local => self.add_functions(&platform, &bus, plan).await?,
            Backend::Sim => add_simulated(&platform, plan).await?,
        }
        write_policies(&bus, &plan.functions).await?;
        self.say(&format!("[4/6] collector, actuator, agent{} {}", if plan.agents.len() > 1 { "s" } else { "" }, names(&plan.agents)));
        let platform_address = &self.addresses.platform;
        let store_every = Span(STORE_EVERY.saturating_mul(self.pace.speed()).min(LONGEST_PERIOD));
        let actuator = json!({ "platform": { "address": platform_address }, "store_every": store_every });
        self.start_service("actuator", "actuator", "qscale-actuator", &actuator)?;
        let mut source = json!({ "url": format!("http://{platform_address}/metrics") });
        if self.backend == Backend::Sim {
            source["max_body_mib"] = json!(METRICS_MIB);
        }
        self.start_service("collector", "collector", "qscale-collector", &json!({ "sources": { "local": source } }))?;
        for agent in &plan.agents {
            let service = format!("agent-{agent}");
            let mut configuration = plan.told.get(agent).cloned().unwrap_or_default();
            configuration.insert("agent".to_owned(), json!(agent));
            self.start_service(&service, &service, "qscale-agent", &configuration.into())?;
        }
        write_private(&self.state.join("addresses.json"), &serde_json::to_vec_pretty(&self.addresses)?)?;
        self.limits = self.until_ready(&platform, plan).await?;
        Ok(bus)
    }

    async fn start_nats(&mut self, plan: &Plan) -> anyhow::Result<Bus> {
        if self.backend == Backend::Sim {
            // A simulated world begins anew, and what was decided in another one has no meaning in it.
            let _absent = std::fs::remove_dir_all(self.store());
        }
        let program = find_nats_server().context("no nats-server: run `make tools`, put one on the PATH, or name it in NATS_SERVER_BIN")?;
        let credentials = self.state.lock_credentials()?;
        let passwords = self.state.passwords(&plan.agents)?;
        let authorization = nats_permissions::authorization(&passwords).context("credentials.json")?;
        write_private(&self.state.join("nats/accounts.conf"), authorization.as_bytes())?;
        drop(credentials);
        let listen = self.addresses.nats.trim_start_matches("nats://");
        let configuration = format!(
            "listen: {listen:?}\nserver_name: \"qscale\"\npid_file: {:?}\njetstream {{ store_dir: {:?} }}\ninclude \"accounts.conf\"\n",
            self.state.join("nats/nats.pid"),
            self.store(),
        );
        let path = self.state.join("nats/nats.conf");
        write_private(&path, configuration.as_bytes())?;
        self.say(&format!("[1/6] nats-server ({}) on {listen}", program.display()));
        self.supervisor.start(Service {
            name: "nats-server".into(),
            program,
            arguments: vec!["-c".into(), path.display().to_string()],
            environment: Vec::new(),
            log: self.state.log("nats-server"),
            output: None,
            ends: false,
            patience: STOP_WITHIN,
        })?;
        let connect = async |user: &str| self.bus_config(user).connect_once("qscale-up", ANSWER_WITHIN).await;
        let setup = connect("setup").await.with_context(|| format!("see {}", self.state.log("nats-server").display()))?;
        provision::ensure(&async_nats::jetstream::new(setup)).await.context("making streams and buckets")?;
        Ok(Bus::of_client(connect("operator").await?, "/qscale/operator"))
    }

    /// Where the streams are kept: apart for simulated worlds, whose hours are not those of this machine.
    fn store(&self) -> PathBuf {
        self.state.join(match self.backend {
            Backend::Local => "nats/store",
            Backend::Sim => "nats/simulated",
        })
    }

    async fn start_platform(&mut self) -> anyhow::Result<PlatformClient> {
        self.say(&format!("[2/6] local platform: gateway {}, API {}", self.addresses.gateway, self.addresses.platform));
        let configuration = json!({
            "api": self.addresses.platform,
            "gateway": self.addresses.gateway,
            "state_dir": self.state.join("platform"),
        });
        self.start_process(PLATFORM, "qscale-platform", &configuration, PLATFORM_STOPS_WITHIN)?;
        let client = PlatformClient::new(&self.addresses.platform)?;
        eventually("the local platform", &self.state.log("platform"), async || client.list().await.is_ok()).await?;
        Ok(client)
    }

    async fn start_simulated_platform(&mut self) -> anyhow::Result<PlatformClient> {
        let speed = if self.pace.speed() > 1 { format!(", {} times as fast as real time", self.pace.speed()) } else { String::new() };
        self.say(&format!("[2/6] simulated platform: API {}{speed}", self.addresses.platform));
        let configuration = json!({
            "api": self.addresses.platform,
            "load_waits": true,
            "load_every": Span(TELL_EVERY.saturating_mul(self.pace.speed())),
            "nats": self.bus_config("loadgen"),
        });
        self.start_process(PLATFORM, "qscale-simulated", &configuration, STOP_WITHIN)?;
        let client = PlatformClient::new(&self.addresses.platform)?;
        eventually("the simulated platform", &self.state.log("platform"), async || client.list().await.is_ok()).await?;
        Ok(client)
    }

    /// Runs the functions with what their files give them.
    async fn add_functions(&self, platform: &PlatformClient, bus: &Bus, plan: &Plan) -> anyhow::Result<()> {
        remove_left_copy(platform, bus, plan).await?;
        for planned in &plan.functions {
            self.say(&format!("[3/6] function {} ({})", planned.id, planned.spec.program()));
            platform.add(&planned.spec).await.with_context(|| format!("function {}", planned.id))?;
            if !store::is_frozen(bus, &planned.id).await? {
                // What an earlier run left it with is no fair beginning, least of all beside a copy.
                let beginning = AllocationRequest::new(planned.spec.allocation.into(), None);
                platform.set_allocation(&planned.id, &beginning).await.with_context(|| format!("function {}", planned.id))?;
            }
        }
        Ok(())
    }

    /// Starts a service that speaks on the bus as `user`.
    fn start_service(&self, name: &str, user: &str, program: &str, configuration: &Value) -> anyhow::Result<()> {
        let mut configuration = configuration.clone();
        configuration["nats"] = serde_json::to_value(self.bus_config(user))?;
        configuration["health"] = json!(self.addresses.health.get(name).context("every service has an address")?);
        self.start_process(name, program, &configuration, STOP_WITHIN)
    }

    fn start_process(&self, name: &str, program: &str, configuration: &Value, patience: Duration) -> anyhow::Result<()> {
        let path = self.state.join("config").join(format!("{name}.json"));
        write_private(&path, &serde_json::to_vec_pretty(configuration)?)?;
        let program = beside(program)?;
        self.supervisor.start(Service {
            name: name.into(),
            environment: self.environment(&program),
            program,
            arguments: vec!["--config".into(), path.display().to_string()],
            log: self.state.log(name),
            output: None,
            ends: false,
            patience,
        })
    }

    fn environment(&self, program: &Path) -> Vec<(String, String)> {
        let mut environment = vec![("PATH".into(), search_path(program))];
        if let Some(clock) = &self.addresses.clock {
            environment.push((clock::VARIABLE.into(), clock.clone()));
        }
        environment
    }

    /// Waits until every function has a ready replica and every service says that it is ready. Whether CPU and memory can be limited here.
    async fn until_ready(&self, platform: &PlatformClient, plan: &Plan) -> anyhow::Result<bool> {
        self.say("[5/6] waiting until everything is ready");
        let ready = async || {
            let Ok(functions) = platform.list().await else { return false };
            let has_replica = |planned: &Planned| functions.iter().any(|status| status.id() == planned.id && status.actual.ready > 0);
            plan.functions.iter().all(has_replica)
        };
        eventually("a replica of every function", &self.state.log("platform"), ready).await?;
        for (service, address) in &self.addresses.health {
            let ready = async || crate::system::conditions(address).await.is_some_and(|conditions| conditions.values().all(|holds| *holds));
            eventually(service, &self.state.log(service), ready).await?;
        }
        Ok(platform.list().await?.iter().all(|status| status.vertical))
    }

    fn say(&self, text: &str) {
        if self.told {
            say(text);
        }
    }

    /// Whether CPU and memory can be limited here; known once everything is started.
    pub fn can_limit(&self) -> bool {
        self.limits
    }

    /// Starts the load generator; every function gets the same arrivals.
    pub async fn start_load(&self, plan: &Plan) -> anyhow::Result<()> {
        if self.backend == Backend::Sim {
            self.say(&format!("[6/6] load {} on {} functions", plan.load_words, plan.functions.len()));
            return self.simulated()?.begin_load().await.context("the simulated platform does not begin the load");
        }
        let Some(load) = &plan.load else {
            self.say("[6/6] no load");
            return Ok(());
        };
        self.say(&format!("[6/6] load {} as {}", load.pattern, load.protocol));
        let nats = self.bus_config("loadgen");
        let password = std::fs::read_to_string(self.state.password_file("loadgen")).context("the password of the load generator")?;
        let mut arguments: Vec<String> = vec!["run".into(), "--json".into(), "--quiet".into()];
        let mut option = |name: &str, value: &str| arguments.push(format!("--{name}={value}"));
        option("target", &self.addresses.gateway);
        for planned in &plan.functions {
            option("function", &planned.id.to_string());
        }
        option("spread", "each");
        option("protocol", &load.protocol);
        for input in &load.inputs {
            option("input", input);
        }
        option("duration-ms", DEMAND_MS);
        option("rate", &load.pattern);
        option("seed", &load.seed.to_string());
        if load.evenly {
            option("gaps", "constant");
        }
        option("for", &load.duration.unwrap_or(UNTIL_STOPPED).to_string());
        option("nats", &nats.url);
        option("nats-user", &nats.user);
        self.supervisor.start(Service {
            name: LOAD.into(),
            program: beside("qscale-loadgen")?,
            arguments,
            // The environment of a process is its owner's alone to read; its arguments are everyone's.
            environment: vec![("QSCALE_NATS_PASSWORD".into(), password)],
            log: self.state.log(LOAD),
            output: Some(self.load_output()),
            ends: true,
            patience: PLATFORM_STOPS_WITHIN,
        })
    }

    fn load_output(&self) -> PathBuf {
        self.state.join(LOAD_OUTPUT)
    }

    /// How often the simulated platform was started again, where that is more often than `known`: then its functions are gone.
    pub fn world_lost(&self, known: u32) -> Option<u32> {
        let (_, restarts) = self.statuses().get(PLATFORM).copied().filter(|_| self.backend == Backend::Sim)?;
        (restarts > known).then_some(restarts)
    }

    /// Gives a simulated platform that was started again its functions and their load; fails while it does not answer yet.
    pub async fn begin_anew(&self, plan: &Plan) -> anyhow::Result<()> {
        let platform = self.simulated()?;
        for planned in &plan.functions {
            platform.add(&planned.spec).await?;
        }
        Ok(platform.begin_load().await?)
    }

    /// What the simulated platform says that the load came to; `None` where there is none.
    pub async fn simulated_load(&self) -> Option<LoadSummary> {
        if self.backend == Backend::Local {
            return None;
        }
        self.simulated().ok()?.load_summary().await.ok()
    }

    fn simulated(&self) -> anyhow::Result<PlatformClient> {
        Ok(PlatformClient::new(&self.addresses.platform)?)
    }

    /// What the load generator says its run came to.
    pub fn load_summary(&self) -> Option<LoadSummary> {
        serde_json::from_slice(&std::fs::read(self.load_output()).ok()?).ok()
    }

    /// What the load generator said of why it could not run; `None` where it ran to its end.
    pub fn load_failure(&self) -> Option<String> {
        let Some((Status::Ended(FAILED | WRONG_COMMAND_LINE), _)) = self.statuses().get(LOAD).copied() else { return None };
        let log = self.state.log(LOAD);
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let said = text.lines().rev().find_map(|line| line.strip_prefix("error: "));
        Some(said.map_or_else(|| format!("see {}", log.display()), ToOwned::to_owned))
    }

    /// How every process stands.
    pub fn statuses(&self) -> Statuses {
        self.supervisor.statuses()
    }

    /// Address of the gateway.
    pub fn gateway(&self) -> &str {
        &self.addresses.gateway
    }

    /// Stops everything, the last started first.
    pub fn stop(&mut self) {
        self.supervisor.stop_all();
        // The file may never have been written.
        let _absent = std::fs::remove_file(self.state.join("addresses.json"));
    }

    fn bus_config(&self, user: &str) -> BusConfig {
        BusConfig {
            url: self.addresses.nats.clone(),
            user: user.into(),
            password: String::new(),
            password_file: Some(self.state.password_file(user)),
        }
    }
}

fn names(agents: &[Name]) -> String {
    agents.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// The programs that lie beside ours come before those of the PATH, so that function files can name them plainly.
pub fn search_path(program: &Path) -> String {
    let own = program.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
    match std::env::var("PATH") {
        Ok(path) => format!("{own}:{path}"),
        Err(_) => own,
    }
}

async fn add_simulated(platform: &PlatformClient, plan: &Plan) -> anyhow::Result<()> {
    let (first, more) = (plan.functions.first(), plan.functions.len().saturating_sub(1));
    if let Some(first) = first {
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        say(&format!("[3/6] function {} ({}){more}", first.id, first.spec.program()));
    }
    for planned in &plan.functions {
        platform.add(&planned.spec).await.with_context(|| format!("function {}", planned.id))?;
    }
    Ok(())
}

async fn write_policies(bus: &Bus, functions: &[Planned]) -> anyhow::Result<()> {
    let policies = bus.jetstream().get_key_value(subject::POLICY_BUCKET).await.context("the bucket of policies")?;
    for planned in functions {
        policies.put(planned.id.tokens(), planned.policy.to_json().into()).await.context("writing the policy")?;
    }
    Ok(())
}

/// Removes the copy that an earlier run with `--versus` made, where this one makes none.
async fn remove_left_copy(platform: &PlatformClient, bus: &Bus, plan: &Plan) -> anyhow::Result<()> {
    let [only] = plan.functions.as_slice() else { return Ok(()) };
    let Ok(copy) = copy_of(&only.spec) else { return Ok(()) };
    if platform.get(&copy.id()).await.is_ok() {
        platform.delete(&copy.id()).await.with_context(|| format!("function {}", copy.id()))?;
        let policies = store::open(bus, subject::POLICY_BUCKET).await?;
        policies.delete(copy.id().tokens()).await.with_context(|| format!("policy {}", copy.id()))?;
    }
    Ok(())
}

/// The right to the usual ports, which one system of a machine has: two that start at the same time would find the same ports free.
fn claim_usual_ports() -> Option<File> {
    let file = File::create(std::env::temp_dir().join("qscale-usual-ports.lock")).ok()?;
    file.try_lock().ok().map(|()| file)
}

/// A loopback address with the usual port, or with any free one where there is none or it is taken.
fn address(usual: Option<u16>) -> anyhow::Result<SocketAddr> {
    let bind = |port| TcpListener::bind(("127.0.0.1", port));
    let listener = usual.map_or_else(|| bind(0), |port| bind(port).or_else(|_| bind(0))).context("no port on 127.0.0.1 is free")?;
    listener.local_addr().context("the address of a socket")
}

/// Waits until `condition` holds.
async fn eventually(what: &str, log: &Path, condition: impl AsyncFn() -> bool) -> anyhow::Result<()> {
    let began = clock::instant();
    while !condition().await {
        anyhow::ensure!(began.elapsed() < ANSWER_WITHIN, "{what} is not ready after {ANSWER_WITHIN:?}; see {}", log.display());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
