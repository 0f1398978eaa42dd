//! Start and stop of every process of one machine. Owns the configuration of each service; must not read the messages of services.
//!
//! Files are read and written synchronously: they are small and local, and while the system starts the runtime has nothing else to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use qscale_common::control;
use qscale_common::load::{LoadFailure, LoadSummary};
use qscale_common::name::Name;
use qscale_common::platform::AllocationRequest;
use qscale_common::runtime::author::{self, Author};
use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_common::runtime::clock::{self, ClockRate};
use qscale_common::runtime::files::{MAX_DOCUMENT, MAX_STATE, read_text};
use qscale_common::runtime::health::Condition;
use qscale_common::runtime::lock::LockedFolder;
use qscale_common::runtime::nats_accounts::{self, User};
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::runtime::{kv, policies, private, provision};
use qscale_common::text::counted;
use qscale_common::time::Span;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::plan::{ClusterPlan, Plan, PlannedFunction, copy_of};
use super::ports::SystemPorts;
use super::supervisor::{HealthCheck, KILLED, Preparation, Service, Status, Statuses, Supervisor};
use super::{BackendKind, pending, say, sibling_program};
use crate::repair::{Repair, RepairReport};
use crate::state_dir::{Addresses, NO_PLATFORM, StateDir, SystemTrust, find_nats_server};
use crate::storage::{Storage, streams_folder};

/// Name of the platform, local or simulated.
const PLATFORM: &str = "platform";
/// Name of the load generator.
pub const LOAD: &str = "loadgen";
/// File of its summary.
const LOAD_OUTPUT: &str = "load.json";
/// CPU demand of a request to the function `faas`, milliseconds.
const DEMAND_MS: &str = "15";

/// Exit codes of a load generator that failed: an error, and an invalid command line.
const FAILED: i32 = 1;
const WRONG_COMMAND_LINE: i32 = 2;

/// Longest wait for a server at the start.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Stop timeout of most services, and of the platform and the load generator, which let requests finish.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const DRAIN_STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// Intervals at which the actuator stores its state and simulated load is reported, in real time: a faster clock does not need more messages.
const STORE_INTERVAL: Duration = Duration::from_secs(10);
const LOAD_INTERVAL: Duration = Duration::from_secs(1);
/// Largest interval that a service accepts.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);
/// Limit of the nats-server for all streams together. [`Storage`] checks that they fit. The server's default is a part of the space that is free when it
/// starts, so the messages that streams hold would count against them at the next start.
const MAX_STORE: &str = "1TB";
/// Largest metrics text of the simulated platform, MiB: 2,000 functions of 20 replicas.
const METRICS_MIB: u32 = 512;

/// A system that starts, runs, or has stopped.
pub struct RunningSystem {
    supervisor: Supervisor,
    state: StateDir,
    addresses: Addresses,
    backend: BackendKind,
    clock_rate: ClockRate,
    limits: bool,
    /// Whether its steps are printed.
    print: bool,
    // Held while the system runs: a second one in the same folder is refused.
    _folder: LockedFolder,
    // Held until it stopped.
    _ports: SystemPorts,
}

impl RunningSystem {
    /// Locks the state folder and chooses addresses; `print` makes it report its steps.
    ///
    /// # Errors
    /// When another system runs in the folder, or no port is free.
    pub fn new(plan: &Plan, state: &StateDir, print: bool) -> anyhow::Result<Self> {
        let state = state.clone();
        let folder = LockedFolder::take("--state-dir", &state.join(""))?;
        // Summary of an earlier run.
        let _absent = std::fs::remove_file(state.join(LOAD_OUTPUT));
        let mut ports = SystemPorts::claim();
        let mut address = |usual| ports.address(usual);
        let mut health = BTreeMap::new();
        for (service, port) in [("collector", 8711), ("actuator", 8713), ("promoter", 8715)] {
            health.insert(service.to_owned(), address(port)?.to_string());
        }
        for (index, agent) in plan.agents.keys().enumerate() {
            health.insert(format!("agent-{agent}"), address(8721 + u16::try_from(index)?)?.to_string());
        }
        let addresses = Addresses {
            nats: format!("nats://{}", address(4222)?),
            platform: match plan.backend {
                BackendKind::Local | BackendKind::Sim => address(8701)?.to_string(),
                BackendKind::Kubernetes => NO_PLATFORM.to_owned(),
            },
            gateway: match plan.backend {
                BackendKind::Local => address(8700)?.to_string(),
                BackendKind::Sim => "none: requests are simulated".to_owned(),
                BackendKind::Kubernetes => "none: requests go to the cluster".to_owned(),
            },
            health,
            pid: std::process::id(),
            clock: (plan.clock_rate.speed() > 1).then(|| plan.clock_rate.to_string()),
            trust: if plan.require_signatures { state.own_trust()? } else { SystemTrust::default() },
        };
        let (backend, clock_rate) = (plan.backend, plan.clock_rate);
        let supervisor = Supervisor::new();
        Ok(Self { supervisor, state, addresses, backend, clock_rate, limits: true, print, _folder: folder, _ports: ports })
    }

    /// Starts everything but the load, in order; returns the operator's connection.
    ///
    /// # Errors
    /// When a program is missing, a service is not ready in time, or a function is refused.
    pub async fn start(&mut self, plan: &Plan) -> anyhow::Result<Bus> {
        let bus = self.start_nats(plan).await?;
        if let Err(error) = pending::record(&self.state, &bus).await {
            say(format_args!("warning: changes made while no system ran are not recorded: {error:#}"));
        }
        let platform = match self.backend {
            BackendKind::Local => Some(self.start_platform().await?),
            BackendKind::Sim => Some(self.start_simulated_platform().await?),
            BackendKind::Kubernetes => None,
        };
        match (self.backend, &platform) {
            (BackendKind::Local, Some(platform)) => self.add_functions(platform, &bus, plan).await?,
            (BackendKind::Sim, Some(platform)) => self.add_simulated(platform, plan).await?,
            _ => self.say(&format!("[3/6] workloads of the ScalingPolicy objects of {}", cluster_name(plan))),
        }
        write_policies(&self.author(&bus)?, &plan.functions).await?;
        let plural = if plan.agents.len() > 1 { "s" } else { "" };
        self.say(&format!("[4/6] collector, actuator, promoter, agent{plural} {}", names(plan)));
        let flush_interval = Span(STORE_INTERVAL.saturating_mul(self.clock_rate.speed()).min(MAX_INTERVAL));
        let SystemTrust { policies, models } = &self.addresses.trust;
        let (backend, sources) = self.platform_configuration(plan);
        let actuator = json!({ "platform": backend, "flush_interval": flush_interval, "trust": policies });
        self.start_service("actuator", "actuator", "qscale-actuator", &actuator).await?;
        self.start_service("collector", "collector", "qscale-collector", &json!({ "sources": sources, "trust": policies })).await?;
        let mut promoter = json!({ "trust": models });
        if platform.is_some() {
            promoter["platform"] = json!(self.addresses.platform);
            promoter["token_file"] = json!(self.state.platform_token());
        }
        if models.is_required() {
            promoter["signing_key_file"] = json!(self.state.signing_key_file(&User::Promoter));
        }
        self.start_service("promoter", "promoter", "qscale-promoter", &promoter).await?;
        for (agent, configuration) in &plan.agents {
            let service = format!("agent-{agent}");
            let mut configuration = configuration.clone();
            configuration.insert("agent".to_owned(), json!(agent));
            configuration.insert("trust".to_owned(), json!(models));
            self.start_service(&service, &service, "qscale-agent", &configuration.into()).await?;
        }
        private::write(&self.state.join("addresses.json"), &serde_json::to_vec_pretty(&self.addresses)?)?;
        self.limits = self.until_ready(platform.as_ref(), plan).await?;
        Ok(bus)
    }

    /// Configuration of the actuator's platform and of the collector's sources.
    fn platform_configuration(&self, plan: &Plan) -> (Value, Value) {
        let ClusterPlan { context, insecure_kubelets, requests } = &plan.cluster;
        if self.backend == BackendKind::Kubernetes {
            let mut backend = json!({ "backend": "kubernetes" });
            let mut cluster = json!({ "kind": "kubernetes", "insecure_kubelets": insecure_kubelets });
            if let Some(context) = context {
                (backend["context"], cluster["context"]) = (json!(context), json!(context));
            }
            let mut sources = json!({ "cluster": cluster });
            if let Some(url) = requests {
                sources["requests"] = json!({ "url": url });
            }
            return (backend, sources);
        }
        let address = &self.addresses.platform;
        let mut source = json!({ "url": format!("http://{address}/metrics") });
        if self.backend == BackendKind::Sim {
            source["max_body_mib"] = json!(METRICS_MIB);
        }
        (json!({ "address": address, "token_file": self.state.platform_token() }), json!({ "local": source }))
    }

    async fn start_nats(&mut self, plan: &Plan) -> anyhow::Result<Bus> {
        if self.backend == BackendKind::Sim {
            // Every simulated world starts from its initial state; decisions of an earlier one mean nothing in it.
            let _absent = std::fs::remove_dir_all(self.store());
            self.repair()?.forget();
        }
        let program = find_nats_server().context("nats-server not found: run `make tools`, add it to PATH, or set NATS_SERVER_BIN")?;
        let credentials = self.state.lock_credentials().await?;
        let passwords = self.state.passwords(plan.agents.keys())?;
        let accounts = nats_accounts::accounts(&passwords).context("credentials.json")?;
        private::write(&self.state.join("nats/accounts.conf"), accounts.as_bytes())?;
        drop(credentials);
        self.adopt_streams()?;
        Storage::measure(&self.store(), &nats_accounts::agents(passwords.keys())).check()?;
        let listen = self.addresses.nats.trim_start_matches("nats://");
        let configuration = format!(
            "listen: {listen:?}\nserver_name: \"qscale\"\npid_file: {:?}\njetstream {{ store_dir: {:?}, max_file_store: {MAX_STORE} }}\ninclude \"accounts.conf\"\n",
            self.state.join("nats/nats.pid"),
            self.store(),
        );
        let path = self.state.join("nats/nats.conf");
        private::write(&path, configuration.as_bytes())?;
        // nats-server writes it, but would follow a link in its place.
        private::create(&self.state.join("nats/nats.pid"))?;
        let store = self.store();
        self.say(&format!("[1/6] nats-server ({}) on {listen}", program.display()));
        self.supervisor
            .start(Service {
                name: "nats-server".into(),
                program,
                arguments: vec!["-c".into(), path.display().to_string()],
                environment: Vec::new(),
                log: self.state.log("nats-server"),
                output: None,
                ends: false,
                stop_timeout: STOP_TIMEOUT,
                health: Some(HealthCheck::nats(listen)),
                prepare: Some(Preparation(Arc::new(move || delete_indexes(&store)))),
            })
            .await?;
        let connect = async |user: &str| self.bus_config(user).connect_once("qscale-up", READY_TIMEOUT).await;
        let setup = connect("setup").await.with_context(|| format!("see {}", self.state.log("nats-server").display()))?;
        let agents = nats_accounts::agents(passwords.keys());
        let jetstream = async_nats::jetstream::new(setup);
        let mut repair = self.repair()?;
        repair.set_damaged_copies_aside().await?;
        provision::ensure(&jetstream, &agents).await.context("failed to create streams and buckets")?;
        for agent in provision::remove_other_agents(&jetstream, &agents).await? {
            self.say(&format!("the Actions of agent {agent}, which has no credential any more, are deleted"));
        }
        repair.restore().await.context("failed to check streams and buckets")?;
        repair.report().take_events().iter().for_each(|event| self.say(event));
        Ok(Bus::of_client(connect("operator").await?, "/qscale/operator"))
    }

    /// Moves streams of an earlier version, which kept them in the server's default account, to the account of the services.
    fn adopt_streams(&self) -> anyhow::Result<()> {
        let accounts = self.store().join("jetstream");
        let (from, to) = (accounts.join("$G"), accounts.join(nats_accounts::SERVICES));
        if from.exists() && !to.exists() {
            std::fs::rename(&from, &to).with_context(|| format!("failed to move {} to {}", from.display(), to.display()))?;
        }
        Ok(())
    }

    /// The author of the changes that the start of a system makes.
    fn author(&self, bus: &Bus) -> anyhow::Result<Author> {
        let by = format!("{} (qscale up)", author::user_name());
        let author = Author::new(bus, User::Operator, &by).reporting(|error| say(format_args!("warning: {error}")));
        Ok(author.signing(self.state.signing_key(&User::Operator)?))
    }

    /// Folder of the streams.
    fn store(&self) -> PathBuf {
        self.state.store(self.backend)
    }

    async fn start_platform(&mut self) -> anyhow::Result<PlatformClient> {
        self.say(&format!("[2/6] local platform: gateway {}, API {}", self.addresses.gateway, self.addresses.platform));
        let configuration = json!({
            "api": self.addresses.platform,
            "gateway": self.addresses.gateway,
            "state_dir": self.state.platform_folder(),
            "hidden_folders": [self.state.join("")],
        });
        self.start_process(PLATFORM, "qscale-platform", &configuration, &self.addresses.platform, DRAIN_STOP_TIMEOUT).await?;
        let client = self.platform()?;
        wait_until("local platform", &self.state.log("platform"), async || client.list().await.is_ok()).await?;
        Ok(client)
    }

    async fn start_simulated_platform(&mut self) -> anyhow::Result<PlatformClient> {
        let speed = if self.clock_rate.speed() > 1 { format!(", speed {}", self.clock_rate.speed()) } else { String::new() };
        self.say(&format!("[2/6] simulated platform: API {}{speed}", self.addresses.platform));
        let configuration = json!({
            "api": self.addresses.platform,
            "state_dir": self.state.platform_folder(),
            "load_waits": true,
            "load_every": Span(LOAD_INTERVAL.saturating_mul(self.clock_rate.speed())),
            "nats": self.bus_config("loadgen"),
        });
        self.start_process(PLATFORM, "qscale-simulated", &configuration, &self.addresses.platform, STOP_TIMEOUT).await?;
        let client = self.platform()?;
        wait_until("simulated platform", &self.state.log("platform"), async || client.list().await.is_ok()).await?;
        Ok(client)
    }

    /// Adds the functions with the allocations of their files.
    async fn add_functions(&self, platform: &PlatformClient, bus: &Bus, plan: &Plan) -> anyhow::Result<()> {
        remove_left_copy(platform, &self.author(bus)?, plan).await?;
        for planned in &plan.functions {
            self.say(&format!("[3/6] function {} ({})", planned.id, planned.spec.program()));
            platform.add(&planned.spec).await.with_context(|| format!("function {}", planned.id))?;
            if !control::is_frozen(&kv::controls(bus).await?, &planned.id) {
                // The allocation of an earlier run would be an unfair start, above all next to a copy.
                let initial = AllocationRequest::new(planned.spec.allocation.into(), None);
                platform.set_allocation(&planned.id, &initial).await.with_context(|| format!("function {}", planned.id))?;
            }
        }
        Ok(())
    }

    async fn add_simulated(&self, platform: &PlatformClient, plan: &Plan) -> anyhow::Result<()> {
        let (first, more) = (plan.functions.first(), plan.functions.len().saturating_sub(1));
        if let Some(first) = first {
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            self.say(&format!("[3/6] function {} ({}){more}", first.id, first.spec.program()));
        }
        for planned in &plan.functions {
            platform.add(&planned.spec).await.with_context(|| format!("function {}", planned.id))?;
        }
        Ok(())
    }

    /// Starts a service that connects to the bus as `user`.
    async fn start_service(&self, name: &str, user: &str, program: &str, configuration: &Value) -> anyhow::Result<()> {
        let health = self.addresses.health.get(name).context("the service has no health address")?;
        let mut configuration = configuration.clone();
        configuration["nats"] = serde_json::to_value(self.bus_config(user))?;
        configuration["health"] = json!(health);
        self.start_process(name, program, &configuration, health, STOP_TIMEOUT).await
    }

    /// Starts a process that serves `/healthz` at `health`.
    async fn start_process(
        &self,
        name: &str,
        program: &str,
        configuration: &Value,
        health: &str,
        stop_timeout: Duration,
    ) -> anyhow::Result<()> {
        let path = self.state.join("config").join(format!("{name}.json"));
        private::write(&path, &serde_json::to_vec_pretty(configuration)?)?;
        let program = sibling_program(program)?;
        self.supervisor
            .start(Service {
                name: name.into(),
                environment: self.environment(&program),
                program,
                arguments: vec!["--config".into(), path.display().to_string()],
                log: self.state.log(name),
                output: None,
                ends: false,
                stop_timeout,
                health: Some(HealthCheck::http(health)),
                prepare: None,
            })
            .await
    }

    fn environment(&self, program: &Path) -> Vec<(String, String)> {
        let mut environment = vec![("PATH".into(), search_path(program))];
        if let Some(clock) = &self.addresses.clock {
            environment.push((clock::VARIABLE.into(), clock.clone()));
        }
        environment
    }

    /// Waits until every function has a ready replica and every service is ready. Returns whether CPU and memory can be limited here.
    async fn until_ready(&self, platform: Option<&PlatformClient>, plan: &Plan) -> anyhow::Result<bool> {
        self.say("[5/6] waiting for readiness");
        if let Some(platform) = platform {
            let ready = async || {
                let Ok(functions) = platform.list().await else { return false };
                let has_replica =
                    |planned: &PlannedFunction| functions.iter().any(|status| status.id() == planned.id && status.actual.ready > 0);
                plan.functions.iter().all(has_replica)
            };
            wait_until("a replica of every function", &self.state.log("platform"), ready).await?;
        }
        for (service, address) in &self.addresses.health {
            let ready =
                async || crate::state_dir::conditions(address).await.is_some_and(|conditions| conditions.values().all(Condition::holds));
            wait_until(service, &self.state.log(service), ready).await?;
        }
        let Some(platform) = platform else { return Ok(true) };
        Ok(platform.list().await?.iter().all(|status| status.vertical))
    }

    /// Starts the repair of streams that are lost while the system runs; returns what it reports.
    ///
    /// # Errors
    /// When a file of the state folder cannot be read.
    pub fn start_repair(&self) -> anyhow::Result<(RepairReport, JoinHandle<()>)> {
        let repair = self.repair()?;
        Ok((repair.report(), tokio::spawn(repair.run())))
    }

    fn repair(&self) -> anyhow::Result<Repair> {
        Repair::new(self.state.clone(), &self.store(), self.bus_config("setup"))
    }

    fn say(&self, text: &str) {
        if self.print {
            say(text);
        }
    }

    /// Whether CPU and memory can be limited here; known after the start.
    pub fn can_limit(&self) -> bool {
        self.limits
    }

    /// Starts the load; every function gets the same arrivals.
    ///
    /// # Errors
    /// When the load generator or the simulated load cannot be started.
    pub async fn start_load(&self, plan: &Plan) -> anyhow::Result<()> {
        if self.backend == BackendKind::Sim {
            let load = plan.trace.as_deref().unwrap_or(&plan.load_description);
            self.say(&format!("[6/6] load on {}: {load}", counted(plan.functions.len() as u64, "function")));
            return self.platform()?.begin_load().await.context("failed to start the simulated load");
        }
        let Some(load) = &plan.load else {
            self.say("[6/6] no load");
            return Ok(());
        };
        self.say(&format!("[6/6] load {} as {}", load.pattern, load.request.protocol));
        let nats = self.bus_config("loadgen");
        let password =
            read_text(&self.state.password_file("loadgen"), MAX_DOCUMENT).context("failed to read the password of the load generator")?;
        let mut arguments = load.arguments(&self.addresses.gateway, plan.functions.iter().map(|planned| &planned.id));
        arguments.extend([format!("--duration-ms={DEMAND_MS}"), format!("--nats={}", nats.url), format!("--nats-user={}", nats.user)]);
        self.supervisor
            .start(Service {
                name: LOAD.into(),
                program: sibling_program("qscale-loadgen")?,
                arguments,
                // Only the owner of a process can read its environment; every user can read its arguments.
                environment: vec![("QSCALE_NATS_PASSWORD".into(), password)],
                log: self.state.log(LOAD),
                output: Some(self.load_output()),
                ends: true,
                stop_timeout: DRAIN_STOP_TIMEOUT,
                health: None,
                prepare: None,
            })
            .await
    }

    fn load_output(&self) -> PathBuf {
        self.state.join(LOAD_OUTPUT)
    }

    /// Restarts of the simulated platform, if more than `known`: its functions are then gone.
    pub fn world_restarts(&self, known: u32) -> Option<u32> {
        let restarts = self.statuses().get(PLATFORM).filter(|_| self.backend == BackendKind::Sim)?.restarts;
        (restarts > known).then_some(restarts)
    }

    /// Adds the functions and their load to a simulated platform that restarted; fails until it answers.
    pub async fn restore_world(&self, plan: &Plan) -> anyhow::Result<()> {
        let platform = self.platform()?;
        for planned in &plan.functions {
            platform.add(&planned.spec).await?;
        }
        Ok(platform.begin_load().await?)
    }

    /// Summary of the simulated load; `None` with real functions.
    pub async fn simulated_load(&self) -> Option<LoadSummary> {
        if self.backend != BackendKind::Sim {
            return None;
        }
        self.platform().ok()?.load_summary().await.ok()
    }

    fn platform(&self) -> anyhow::Result<PlatformClient> {
        self.state.platform(&self.addresses)
    }

    /// Summary of the load generator; `None` until it ends.
    pub fn load_summary(&self) -> Option<LoadSummary> {
        serde_json::from_str(&read_text(&self.load_output(), MAX_STATE).ok()?).ok()
    }

    /// Error of a load generator that did not finish.
    pub fn load_failure(&self) -> Option<String> {
        let Some(Status::Ended(FAILED | WRONG_COMMAND_LINE | KILLED)) = self.supervisor.status(LOAD) else { return None };
        let failure = read_text(&self.load_output(), MAX_STATE).ok().and_then(|text| serde_json::from_str::<LoadFailure>(&text).ok());
        Some(failure.map_or_else(|| format!("see {}", self.state.log(LOAD).display()), |failure| failure.error))
    }

    /// State of every process.
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
        // Absent if the start failed.
        let _absent = std::fs::remove_file(self.state.join("addresses.json"));
    }

    fn bus_config(&self, user: &str) -> BusConfig {
        self.state.bus_config(&self.addresses.nats, user)
    }
}

/// The cluster in words.
fn cluster_name(plan: &Plan) -> String {
    plan.cluster.context.as_ref().map_or_else(|| "the current context".to_owned(), |context| format!("context {context}"))
}

fn names(plan: &Plan) -> String {
    plan.agents.keys().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// `PATH` with the folder of `program` in front, so that function files can name the project's programs without a path.
pub fn search_path(program: &Path) -> String {
    let own = program.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
    match std::env::var("PATH") {
        Ok(path) => format!("{own}:{path}"),
        Err(_) => own,
    }
}

async fn write_policies(author: &Author, functions: &[PlannedFunction]) -> anyhow::Result<()> {
    for planned in functions {
        policies::edit(author, &planned.id, |_| Ok(planned.policy.clone()), clock::now()).await.context("failed to write a policy")?;
    }
    Ok(())
}

/// Removes the copy of an earlier run with `--versus`, unless this run has one.
async fn remove_left_copy(platform: &PlatformClient, author: &Author, plan: &Plan) -> anyhow::Result<()> {
    let [only] = plan.functions.as_slice() else { return Ok(()) };
    let Ok(copy) = copy_of(&only.spec) else { return Ok(()) };
    if platform.get(&copy.id()).await.is_ok() {
        platform.delete(&copy.id()).await.with_context(|| format!("function {}", copy.id()))?;
        policies::delete(author, &copy.id(), clock::now()).await?;
    }
    Ok(())
}

/// Deletes the indexes of the streams in `store`, so that nats-server reads all messages when it starts, and drops damaged ones. With an index it would find them
/// only when they are read, and the reader would wait forever.
fn delete_indexes(store: &Path) {
    for stream in std::fs::read_dir(streams_folder(store)).into_iter().flatten().flatten() {
        // It may not have been written.
        let _absent = std::fs::remove_file(stream.path().join("msgs/index.db"));
    }
}

/// Waits until `condition` holds, at most [`READY_TIMEOUT`].
async fn wait_until(what: &str, log: &Path, condition: impl AsyncFn() -> bool) -> anyhow::Result<()> {
    let began = clock::instant();
    while !condition().await {
        let waited = clock::since(began);
        anyhow::ensure!(waited < READY_TIMEOUT, "{what} not ready after {READY_TIMEOUT:?}; see {}", log.display());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
