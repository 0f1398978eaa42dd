//! A local platform with one function on it, and load on that function. Owns the processes that measuring takes and the reading of counters; must not
//! know what is measured with them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use qscale_common::load::LoadSummary;
use qscale_common::name::{FunctionId, Name};
use qscale_common::platform::{AllocationRequest, FunctionSpec, FunctionStatus, InitialAllocation, PlatformAddresses};
use qscale_common::runtime::clock;
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::{Allocation, Replicas};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::counters::{Counters, counters};
use crate::system::{Locate, write_private};
use crate::up::beside;
use crate::up::launch::search_path;
use crate::up::supervisor::{Service, Status, Supervisor};

/// What the function is called while it is measured, beside whatever else the platform runs.
const NAME: &str = "measured";
/// How long a replica, a platform or a load generator may take beyond what is asked of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the platform may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How often is looked whether something has come about.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How requests are sent and what they ask for.
#[derive(Debug, Clone)]
pub struct RequestForm {
    /// The load generator's protocol.
    pub protocol: String,
    /// Fields of a request.
    pub inputs: Vec<String>,
}

/// A load that is sent.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// The load generator's pattern.
    pub rate: String,
    /// Gaps between requests: `poisson` or `constant`.
    pub gaps: &'static str,
    /// How long is sent.
    pub length: Duration,
    /// Seed of the arrivals.
    pub seed: u64,
}

/// A load that is being sent.
#[derive(Debug)]
pub struct Sending {
    name: String,
    requests: PathBuf,
    summary: PathBuf,
    until: Duration,
}

/// What became of a load.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Why it says nothing of the function, where the load generator fell short.
    pub void: Option<String>,
    /// The first instant, milliseconds since 1970.
    pub started: Timestamp,
    /// Every request, as it was due.
    pub requests: Vec<Request>,
}

/// One request of a load; instants count from its start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// When it was due.
    pub due: Duration,
    /// When its answer was there, if it was answered well.
    pub answered: Option<Duration>,
}

impl Request {
    /// From when it was due to its answer.
    pub fn latency(&self) -> Option<Duration> {
        self.answered.map(|answered| answered.saturating_sub(self.due))
    }
}

/// A platform and a function.
pub struct Rig {
    platform: PlatformClient,
    gateway: String,
    supervisor: Supervisor,
    folder: PathBuf,
    loads: u32,
    spec: FunctionSpec,
    form: RequestForm,
    /// Whether CPU and memory can be limited here, and CPU time be read exactly.
    pub vertical: bool,
}

impl Rig {
    /// Starts a platform of its own, or uses the one that `--platform` names; the function is added by [`Rig::place`].
    pub async fn start(locate: &Locate, spec: &FunctionSpec, form: RequestForm) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("qscale-measure-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let supervisor = Supervisor::new();
        let spec = FunctionSpec { name: Name::new(NAME).context("the name of the function")?, listen: None, ..spec.clone() };
        let (api, gateway) = match &locate.platform {
            Some(api) => (api.clone(), String::new()),
            None => start_platform(&supervisor, &folder).await?,
        };
        let platform = PlatformClient::new(&api).with_context(|| format!("platform {api}"))?;
        let mut rig = Self { platform, gateway, supervisor, folder, loads: 0, spec, form, vertical: true };
        rig.add().await?;
        Ok(rig)
    }

    fn id(&self) -> FunctionId {
        self.spec.id()
    }

    async fn add(&mut self) -> anyhow::Result<()> {
        let status = self.platform.add(&self.spec).await.context("adding the function")?;
        self.vertical = status.vertical;
        if self.gateway.is_empty() {
            // A platform that was there tells where its gateway is; ours told already.
            let address = status.gateway.split(|c: char| !(c.is_ascii_alphanumeric() || ".:[]-".contains(c))).next();
            self.gateway =
                address.filter(|address| address.contains(':')).context("the platform does not tell its gateway's address")?.to_owned();
        }
        Ok(())
    }

    /// Puts the function in place anew, with `change` made to its file and `allocation`, and waits until all its replicas are ready.
    pub async fn place(&mut self, allocation: Allocation, change: impl FnOnce(&mut FunctionSpec)) -> anyhow::Result<()> {
        self.platform.delete(&self.id()).await.context("removing the function")?;
        change(&mut self.spec);
        self.spec.allocation = InitialAllocation {
            replicas: allocation.replicas,
            cpu_millicores: allocation.cpu_millicores,
            memory_mib: allocation.memory_mib,
        };
        self.add().await?;
        self.until_ready(allocation.replicas).await
    }

    /// As [`Rig::place`], of another function or of other requests.
    pub async fn replace(&mut self, spec: &FunctionSpec, form: RequestForm, allocation: Allocation) -> anyhow::Result<()> {
        let named = FunctionSpec { name: self.spec.name.clone(), namespace: self.spec.namespace.clone(), listen: None, ..spec.clone() };
        self.form = form;
        self.place(allocation, |spec| *spec = named).await
    }

    /// How requests are sent now.
    pub fn form(&self) -> &RequestForm {
        &self.form
    }

    /// The function's file as it is now.
    pub fn spec(&self) -> &FunctionSpec {
        &self.spec
    }

    /// The platform's process, where it is ours.
    pub fn platform_pid(&self) -> Option<u32> {
        match self.supervisor.statuses().get("platform") {
            Some((Status::Running { pid }, _)) => Some(*pid),
            _ => None,
        }
    }

    /// Gives the function another allocation.
    pub async fn allocate(&self, allocation: Allocation) -> anyhow::Result<()> {
        self.platform.set_allocation(&self.id(), &AllocationRequest::new(allocation, None)).await.context("setting the allocation")?;
        Ok(())
    }

    /// Waits until so many replicas are ready and no other is there.
    pub async fn until_ready(&self, replicas: Replicas) -> anyhow::Result<()> {
        let began = clock::instant();
        loop {
            let status = self.status().await?;
            if status.actual.ready == replicas.0 && status.actual.replicas.len() == replicas.0 as usize {
                return Ok(());
            }
            if status.crashes > 0 || began.elapsed() > PATIENCE {
                let logs = self.platform.logs(&self.id(), 5).await.unwrap_or_default();
                let said: Vec<String> = logs.iter().map(|line| crate::show::clean(&line.line)).collect();
                bail!("the function does not become ready ({}); it said: {}", self.spec.command.join(" "), said.join(" | "));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn status(&self) -> anyhow::Result<FunctionStatus> {
        Ok(self.platform.get(&self.id()).await?)
    }

    /// Reads the function's counters.
    pub async fn read(&self) -> anyhow::Result<Counters> {
        let began = clock::wall();
        let text = get(self.platform.address(), "/metrics").await.context("reading the platform's metrics")?;
        Ok(Counters { began, at: clock::wall(), ..counters(&text, &self.id()) })
    }

    /// Begins to send a load.
    pub fn send(&mut self, plan: &LoadPlan) -> anyhow::Result<Sending> {
        self.loads += 1;
        let name = format!("load-{}", self.loads);
        let file = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        let (requests, summary, timeout) = (file("csv"), file("json"), self.spec.timeout);
        let mut arguments: Vec<String> = vec!["run".into(), "--json".into(), "--quiet".into()];
        let mut option = |name: &str, value: &str| arguments.push(format!("--{name}={value}"));
        option("target", &self.gateway);
        option("function", &self.id().to_string());
        option("protocol", &self.form.protocol);
        self.form.inputs.iter().for_each(|input| option("input", input));
        option("rate", &plan.rate);
        option("gaps", plan.gaps);
        option("for", &Span(plan.length).to_string());
        option("seed", &plan.seed.to_string());
        // The gateway gives up first, so that both sides agree on what was given up.
        option("timeout", &Span(timeout.0 + Duration::from_secs(5)).to_string());
        option("drain", &Span(timeout.0 + Duration::from_secs(5)).to_string());
        option("csv", &requests.display().to_string());
        let program = beside("qscale-loadgen")?;
        self.supervisor.start(Service {
            name: name.clone(),
            environment: Vec::new(),
            program,
            arguments,
            log: file("log"),
            output: Some(summary.clone()),
            ends: true,
            patience: STOP_WITHIN,
        })?;
        Ok(Sending { name, requests, summary, until: plan.length + timeout.0 + PATIENCE })
    }

    /// Waits until a load was sent and answered.
    pub async fn finish(&self, sending: Sending) -> anyhow::Result<Sent> {
        const FAILED: [i32; 2] = [1, 2];
        let began = clock::instant();
        let code = loop {
            match self.supervisor.statuses().get(&sending.name) {
                Some((Status::Ended(code), _)) => break *code,
                Some((Status::Restarting, _)) => bail!("the load generator died"),
                _ => ensure!(began.elapsed() < sending.until, "the load generator does not end"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        if FAILED.contains(&code) {
            let log = std::fs::read_to_string(sending.summary.with_extension("log")).unwrap_or_default();
            let said = log.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or("nothing").to_owned();
            bail!("the load generator could not run: {said}");
        }
        let summary: LoadSummary = serde_json::from_slice(&std::fs::read(&sending.summary)?).context("what the load generator printed")?;
        let text = std::fs::read_to_string(&sending.requests).context("what the load generator wrote")?;
        let mut requests: Vec<Request> =
            text.lines().skip(1).map(request).collect::<Option<_>>().context("a row of the load generator's file")?;
        requests.sort_by_key(|request| request.due);
        let void = summary.void.then(|| summary.void_reasons.join("; "));
        let started = Timestamp(summary.started_unix_us / 1000);
        Ok(Sent { void, started, requests })
    }

    /// Sends a load to its end.
    pub async fn run(&mut self, plan: &LoadPlan) -> anyhow::Result<Sent> {
        let sending = self.send(plan)?;
        self.finish(sending).await
    }

    /// Removes the function, stops what was started and removes its files.
    pub async fn stop(mut self) {
        if self.platform_pid().is_none() {
            // Where it cannot be removed the platform is gone, and the function with it.
            let _gone = self.platform.delete(&self.id()).await;
        }
        let ended = tokio::task::spawn_blocking(move || {
            self.supervisor.stop_all();
            // What is left is left to the system's cleaning of temporary files.
            let _left_behind = std::fs::remove_dir_all(&self.folder);
        });
        // A panic of the stop was reported when it happened.
        let _panicked = ended.await;
    }
}

/// Starts a platform on free ports; returns the addresses of its API and of its gateway.
async fn start_platform(supervisor: &Supervisor, folder: &std::path::Path) -> anyhow::Result<(String, String)> {
    let state = folder.join("platform");
    let configuration = json!({
        "api": "127.0.0.1:0",
        "gateway": "127.0.0.1:0",
        "state_dir": state,
        "cgroup_root": format!("qscale-measure-{}", std::process::id()),
        // Beside those of a system that is up.
        "replica_ports": [17_000, 19_999],
    });
    let (path, log, program) = (folder.join("platform.json"), folder.join("platform.log"), beside("qscale-platform")?);
    write_private(&path, &serde_json::to_vec_pretty(&configuration)?)?;
    supervisor.start(Service {
        name: "platform".into(),
        environment: vec![("PATH".into(), search_path(&program))],
        program,
        arguments: vec!["--config".into(), path.display().to_string()],
        log: log.clone(),
        output: None,
        ends: false,
        patience: STOP_WITHIN,
    })?;
    let began = clock::instant();
    loop {
        let told =
            std::fs::read(state.join("addresses.json")).ok().and_then(|text| serde_json::from_slice::<PlatformAddresses>(&text).ok());
        if let Some(addresses) = told
            && PlatformClient::new(&addresses.api)?.list().await.is_ok()
        {
            return Ok((addresses.api, addresses.gateway));
        }
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let died = matches!(supervisor.statuses().get("platform"), Some((Status::Restarting, _)));
        ensure!(!died && began.elapsed() < PATIENCE, "the local platform does not start; it said:\n{}", said());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// function,intended_us,sent_us,replied_us,status,connection,valid,...
fn request(row: &str) -> Option<Request> {
    let cells: Vec<&str> = row.split(',').collect();
    let micros = |cell: &&str| cell.parse().ok().map(Duration::from_micros);
    let well = cells.get(4) == Some(&"ok") && cells.get(6) == Some(&"true");
    Some(Request { due: micros(cells.get(1)?)?, answered: if well { Some(micros(cells.get(3)?)?) } else { None } })
}

async fn get(address: &str, path: &str) -> anyhow::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        anyhow::Ok(reply)
    };
    let reply = tokio::time::timeout(PATIENCE, exchange).await.context("no reply")??;
    let (_, body) = reply.split_once("\r\n\r\n").context("no reply of HTTP")?;
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_and_only_a_right_answer_counts() {
        let ms = Duration::from_millis;
        let row = |row: &str| request(row).expect("a row");
        let fine = row("default/f,1000,1010,5000,ok,new,true,0,,0,0,0,0");
        assert_eq!(fine, Request { due: ms(1), answered: Some(ms(5)) });
        assert_eq!(fine.latency(), Some(ms(4)));
        assert_eq!(row("default/f,1000,1010,5000,ok,new,false,0,,0,0,0,0").answered, None);
        assert_eq!(row("default/f,1000,,,not_sent,,,0,,0,0,0,0").answered, None);
        assert_eq!(request("default/f"), None);
    }
}
