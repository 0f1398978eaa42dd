//! A local platform with one function, and load on it. Owns the processes and the reading of counters; must not
//! know what is measured. Files are read and written synchronously: they are small and local, and nothing else runs meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use qscale_common::load::{LoadFailure, LoadSummary};
use qscale_common::name::{FunctionId, Name};
use qscale_common::platform::{AllocationRequest, FunctionSpec, FunctionStatus, InitialAllocation, PlatformAddresses};
use qscale_common::runtime::files::{MAX_STATE, read_text};
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::runtime::platform::token::TOKEN_FILE;
use qscale_common::runtime::{clock, private};
use qscale_common::text;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::{Allocation, Replicas};
use qscale_up::launch::search_path;
use qscale_up::supervisor::{KILLED, Service, Status, Supervisor};
use qscale_up::{LoadPlan, RequestForm, sibling_program};
use serde_json::json;

use super::counters::{Counters, counters};

/// Name of the function while it is measured.
const NAME: &str = "measured";
/// Timeout of replicas, platform and load generator.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Stop timeout of the platform.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// Polling interval.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Maximum size of the list of requests of one load, bytes: millions of them.
const MAX_REQUESTS: u64 = 1 << 30;

/// A running load.
#[derive(Debug)]
pub struct LoadRun {
    name: String,
    requests: PathBuf,
    summary: PathBuf,
    until: Duration,
}

/// The result of a load.
#[derive(Debug, Clone)]
pub struct LoadResult {
    /// Why the result is void, if the load generator could not keep its schedule.
    pub void: Option<String>,
    /// Start of the load.
    pub started: Timestamp,
    /// All requests, by due time.
    pub requests: Vec<TimedRequest>,
}

/// One request of a load; times are since the start of the load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimedRequest {
    /// Due time.
    pub due: Duration,
    /// Time of its answer, if it succeeded.
    pub answered: Option<Duration>,
}

impl TimedRequest {
    /// Time from due time to answer.
    pub fn latency(&self) -> Option<Duration> {
        self.answered.map(|answered| answered.saturating_sub(self.due))
    }
}

/// A platform with one function.
pub struct Testbed {
    platform: PlatformClient,
    gateway: String,
    supervisor: Supervisor,
    folder: PathBuf,
    loads: u32,
    spec: FunctionSpec,
    form: RequestForm,
    /// Whether CPU and memory can be limited and CPU time is exact.
    pub vertical: bool,
}

impl Testbed {
    /// Starts a platform, or uses `platform`, and adds the function.
    ///
    /// # Errors
    /// When the platform does not start or refuses the function.
    pub async fn start(platform: Option<PlatformClient>, spec: &FunctionSpec, form: RequestForm) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("qscale-measure-{}", std::process::id()));
        let folder = private::folder(&folder)?;
        let supervisor = Supervisor::new();
        let spec = FunctionSpec { name: Name::new(NAME).context("invalid name of the function")?, listen: None, ..spec.clone() };
        let (platform, gateway) = match platform {
            Some(platform) => (platform, String::new()),
            None => start_platform(&supervisor, &folder).await?,
        };
        let mut testbed = Self { platform, gateway, supervisor, folder, loads: 0, spec, form, vertical: true };
        testbed.add().await?;
        Ok(testbed)
    }

    fn id(&self) -> FunctionId {
        self.spec.id()
    }

    async fn add(&mut self) -> anyhow::Result<()> {
        let status = self.platform.add(&self.spec).await.context("failed to add the function")?;
        self.vertical = status.vertical;
        if self.gateway.is_empty() {
            // A platform that was running before reports its gateway here.
            let address = status.gateway.split(|c: char| !(c.is_ascii_alphanumeric() || ".:[]-".contains(c))).next();
            self.gateway =
                address.filter(|address| address.contains(':')).context("the platform does not report its gateway's address")?.to_owned();
        }
        Ok(())
    }

    /// Replaces the function, with `change` applied to its file and with `allocation`, and waits until all replicas are ready.
    ///
    /// # Errors
    /// When the platform refuses the function, or it does not become ready.
    pub async fn place(&mut self, allocation: Allocation, change: impl FnOnce(&mut FunctionSpec)) -> anyhow::Result<()> {
        self.platform.delete(&self.id()).await.context("failed to remove the function")?;
        change(&mut self.spec);
        self.spec.allocation = InitialAllocation {
            replicas: allocation.replicas,
            cpu_millicores: allocation.cpu_millicores,
            memory_mib: allocation.memory_mib,
        };
        self.add().await?;
        self.until_ready(allocation.replicas).await
    }

    /// Replaces the function by another one, with other requests.
    ///
    /// # Errors
    /// As [`Testbed::place`].
    pub async fn replace(&mut self, spec: &FunctionSpec, form: RequestForm, allocation: Allocation) -> anyhow::Result<()> {
        let named = FunctionSpec { name: self.spec.name.clone(), namespace: self.spec.namespace.clone(), listen: None, ..spec.clone() };
        self.form = form;
        self.place(allocation, |spec| *spec = named).await
    }

    /// Current form of requests.
    pub fn form(&self) -> &RequestForm {
        &self.form
    }

    /// Current function file.
    pub fn spec(&self) -> &FunctionSpec {
        &self.spec
    }

    /// Process of the platform, if the testbed started it.
    pub fn platform_pid(&self) -> Option<u32> {
        match self.supervisor.status("platform") {
            Some(Status::Running { pid }) => Some(pid),
            _ => None,
        }
    }

    /// Changes the allocation.
    ///
    /// # Errors
    /// When the platform refuses it.
    pub async fn allocate(&self, allocation: Allocation) -> anyhow::Result<()> {
        self.platform
            .set_allocation(&self.id(), &AllocationRequest::new(allocation, None))
            .await
            .context("failed to set the allocation")?;
        Ok(())
    }

    /// Waits until exactly `replicas` exist and are ready.
    ///
    /// # Errors
    /// When a replica crashes, or on timeout.
    pub async fn until_ready(&self, replicas: Replicas) -> anyhow::Result<()> {
        let began = clock::instant();
        loop {
            let status = self.status().await?;
            if status.actual.ready == replicas.0 && status.actual.replicas.len() == replicas.0 as usize {
                return Ok(());
            }
            if status.crashes > 0 || clock::since(began) > START_TIMEOUT {
                let logs = self.platform.logs(&self.id(), 5).await.unwrap_or_default();
                let output: Vec<String> = logs.iter().map(|line| text::clean(&line.line)).collect();
                bail!("the function ({}) is not ready; its last output: {}", self.spec.command.join(" "), output.join(" | "));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn status(&self) -> anyhow::Result<FunctionStatus> {
        Ok(self.platform.get(&self.id()).await?)
    }

    /// Reads the function's counters.
    ///
    /// # Errors
    /// When the platform does not answer.
    pub async fn read(&self) -> anyhow::Result<Counters> {
        let began = clock::wall();
        let text = self.platform.metrics().await?;
        Ok(Counters { began, at: clock::wall(), ..counters(&text, &self.id()) })
    }

    /// Starts a load of requests of the current form.
    ///
    /// # Errors
    /// When the load generator cannot be started.
    pub async fn send(&mut self, plan: &LoadPlan) -> anyhow::Result<LoadRun> {
        self.loads += 1;
        let name = format!("load-{}", self.loads);
        let file = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        let (requests, summary, timeout) = (file("csv"), file("json"), self.spec.timeout);
        let plan = LoadPlan { request: self.form.clone(), ..plan.clone() };
        let mut arguments = plan.arguments(&self.gateway, [&self.id()]);
        // The gateway gives up first, so that both sides agree on which requests timed out.
        let drain = Span(timeout.0 + Duration::from_secs(5));
        arguments.extend([format!("--timeout={drain}"), format!("--drain={drain}"), format!("--csv={}", requests.display())]);
        let program = sibling_program("qscale-loadgen")?;
        self.supervisor
            .start(Service {
                name: name.clone(),
                environment: Vec::new(),
                program,
                arguments,
                log: file("log"),
                output: Some(summary.clone()),
                ends: true,
                stop_timeout: STOP_WITHIN,
                health: None,
                prepare: None,
            })
            .await?;
        Ok(LoadRun {
            name,
            requests,
            summary,
            until: plan.duration.map_or(Duration::ZERO, |duration| duration.0) + timeout.0 + START_TIMEOUT,
        })
    }

    /// Waits for the end of a load.
    ///
    /// # Errors
    /// When the load generator fails or does not end in time.
    pub async fn finish(&self, sending: LoadRun) -> anyhow::Result<LoadResult> {
        const FAILED: [i32; 2] = [1, 2];
        let began = clock::instant();
        let code = loop {
            match self.supervisor.status(&sending.name) {
                Some(Status::Ended(KILLED)) => bail!("the load generator was killed"),
                Some(Status::Ended(code)) => break code,
                _ => ensure!(clock::since(began) < sending.until, "the load generator did not end in time"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        if FAILED.contains(&code) {
            let failure: LoadFailure =
                serde_json::from_str(&read_text(&sending.summary, MAX_STATE)?).context("the load generator failed without an error")?;
            bail!("the load generator failed: {}", failure.error);
        }
        let summary: LoadSummary =
            serde_json::from_str(&read_text(&sending.summary, MAX_STATE)?).context("invalid summary of the load generator")?;
        let text = read_text(&sending.requests, MAX_REQUESTS)?;
        let mut requests: Vec<TimedRequest> =
            text.lines().skip(1).map(request).collect::<Option<_>>().context("invalid row in the requests of the load generator")?;
        requests.sort_by_key(|request| request.due);
        let void = summary.void.then(|| summary.void_reasons.join("; "));
        let started = Timestamp(summary.started_unix_us / 1000);
        Ok(LoadResult { void, started, requests })
    }

    /// Runs a load to its end.
    ///
    /// # Errors
    /// As [`Testbed::send`] and [`Testbed::finish`].
    pub async fn run(&mut self, plan: &LoadPlan) -> anyhow::Result<LoadResult> {
        let sending = self.send(plan).await?;
        self.finish(sending).await
    }

    /// Removes the function, stops all processes and removes their files.
    pub async fn stop(mut self) {
        if self.platform_pid().is_none() {
            // If it cannot be removed, the platform is gone, and the function with it.
            let _gone = self.platform.delete(&self.id()).await;
        }
        let ended = tokio::task::spawn_blocking(move || {
            self.supervisor.stop_all();
            // The system cleans up temporary files that remain.
            let _left_behind = std::fs::remove_dir_all(&self.folder);
        });
        // A panic of the stop was reported when it happened.
        let _panicked = ended.await;
    }
}

/// Starts a platform on free ports; returns a client of it and the address of its gateway.
async fn start_platform(supervisor: &Supervisor, folder: &std::path::Path) -> anyhow::Result<(PlatformClient, String)> {
    let state = folder.join("platform");
    let configuration = json!({
        "api": "127.0.0.1:0",
        "gateway": "127.0.0.1:0",
        "state_dir": state,
        "cgroup_root": format!("qscale-measure-{}", std::process::id()),
        // Different from those of a running system.
        "replica_ports": [17_000, 19_999],
    });
    let (path, log, program) = (folder.join("platform.json"), folder.join("platform.log"), sibling_program("qscale-platform")?);
    private::write(&path, &serde_json::to_vec_pretty(&configuration)?)?;
    supervisor
        .start(Service {
            name: "platform".into(),
            environment: vec![("PATH".into(), search_path(&program))],
            program,
            arguments: vec!["--config".into(), path.display().to_string()],
            log: log.clone(),
            output: None,
            ends: false,
            stop_timeout: STOP_WITHIN,
            health: None,
            prepare: None,
        })
        .await?;
    let began = clock::instant();
    loop {
        let written =
            read_text(&state.join("addresses.json"), MAX_STATE).ok().and_then(|text| serde_json::from_str::<PlatformAddresses>(&text).ok());
        if let Some(addresses) = written {
            let platform = PlatformClient::new(&addresses.api)?.with_token_file(state.join(TOKEN_FILE));
            if platform.list().await.is_ok() {
                return Ok((platform, addresses.gateway));
            }
        }
        let output = || read_text(&log, MAX_STATE).unwrap_or_default();
        let died = supervisor.status("platform") == Some(Status::Restarting);
        ensure!(!died && clock::since(began) < START_TIMEOUT, "the local platform did not start; its log:\n{}", output());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Parses a row: function,intended_us,sent_us,replied_us,status,connection,valid,...
fn request(row: &str) -> Option<TimedRequest> {
    let cells: Vec<&str> = row.split(',').collect();
    let micros = |cell: &&str| cell.parse().ok().map(Duration::from_micros);
    let well = cells.get(4) == Some(&"ok") && cells.get(6) == Some(&"true");
    Some(TimedRequest { due: micros(cells.get(1)?)?, answered: if well { Some(micros(cells.get(3)?)?) } else { None } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_answers_count_as_success() {
        let ms = Duration::from_millis;
        let row = |row: &str| request(row).expect("a row");
        let fine = row("default/f,1000,1010,5000,ok,new,true,0,,0,0,0,0");
        assert_eq!(fine, TimedRequest { due: ms(1), answered: Some(ms(5)) });
        assert_eq!(fine.latency(), Some(ms(4)));
        assert_eq!(row("default/f,1000,1010,5000,ok,new,false,0,,0,0,0,0").answered, None);
        assert_eq!(row("default/f,1000,,,not_sent,,,0,,0,0,0,0").answered, None);
        assert_eq!(request("default/f"), None);
    }
}
