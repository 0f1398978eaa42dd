//! Where a network computes: asked for, or measured. Owns the probe, which a process of its own makes: a driver may end the process that opens it.

use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use qscale_common::runtime::clock;
use qscale_dqn::device::{self, Device, Kind};
use qscale_dqn::probe::{self, Probe};
use tokio::process::Command;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// What is fastest of what computes correctly.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU, or nothing.
    Gpu,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu),
            _ => Err("must be one of auto, cpu, gpu".into()),
        }
    }
}

/// How long a probe may take; compiling shaders for the first time takes seconds.
const WITHIN: Duration = Duration::from_secs(120);

/// Opens the device that is asked for, and says which and why.
pub async fn choose(wish: DeviceChoice) -> anyhow::Result<Device> {
    if wish == DeviceChoice::Cpu {
        return Ok(device::cpu());
    }
    if !cfg!(feature = "gpu") {
        if wish == DeviceChoice::Gpu {
            bail!("--device gpu: this program was built without the feature `gpu`; build it with cargo build -p qscale --features gpu");
        }
        return Ok(device::cpu());
    }
    let probed = probe_in_child().await.and_then(|probe| if let Some(why) = probe.refusal() { bail!("{why}") } else { Ok(probe) });
    match (wish, probed) {
        (DeviceChoice::Gpu, probed) => {
            let probe = probed.context("--device gpu")?;
            eprintln!("computing on the GPU, as asked for: {probe}");
        }
        (_, Ok(probe)) if probe.gpu_is_faster() => eprintln!("computing on the GPU, which is faster: {probe}"),
        (_, Ok(probe)) => {
            eprintln!("computing on the CPU, which is faster: {probe}");
            return Ok(device::cpu());
        }
        (_, Err(error)) => {
            eprintln!("computing on the CPU: {error:#}");
            return Ok(device::cpu());
        }
    }
    Ok(device::open(Kind::Gpu)?)
}

/// Lets a process of its own try the GPU.
async fn probe_in_child() -> anyhow::Result<Probe> {
    let program = std::env::current_exe().context("this program cannot be found")?;
    let mut command = Command::new(program);
    command.arg("probe-device").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(WITHIN, command.output());
    let output = output
        .await
        .map_err(|_| anyhow::anyhow!("the GPU did not answer within {} s", WITHIN.as_secs()))?
        .context("the probe cannot be started")?;
    if !output.status.success() {
        bail!("the driver of the GPU ended the process that tried it: {}", output.status);
    }
    let found: Result<Probe, String> = serde_json::from_slice(&output.stdout).context("the probe said nothing that can be read")?;
    found.map_err(anyhow::Error::msg)
}

/// Tries the GPU, in this process; run it as a process of its own.
pub fn probe() -> Result<Probe, String> {
    let began = clock::instant();
    probe::probe(&|| began.elapsed())
}
