//! Choice of the device that computes networks. Owns the probe of the GPU, which runs in a child process, because a broken driver may end the process that opens it.

use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use qscale_common::runtime::clock;
use qscale_dqn::device::{self, Device, Kind};
use qscale_dqn::probe::{self, Probe};
use tokio::process::Command;

/// Requested device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The fastest device that computes correctly.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU; an error without one.
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

/// Timeout of the probe; the first compilation of shaders takes seconds.
const WITHIN: Duration = Duration::from_secs(120);

/// Opens the requested device, and reports the choice on standard error.
///
/// # Errors
/// When the GPU is requested and cannot be used.
pub async fn choose(wish: DeviceChoice) -> anyhow::Result<Device> {
    if wish == DeviceChoice::Cpu {
        return Ok(device::cpu());
    }
    if !cfg!(feature = "gpu") {
        if wish == DeviceChoice::Gpu {
            bail!("--device gpu: this program was built without the feature `gpu`; build it with `cargo build -p qscale --features gpu`");
        }
        return Ok(device::cpu());
    }
    let probed = probe_in_child().await.and_then(|probe| if let Some(why) = probe.refusal() { bail!("{why}") } else { Ok(probe) });
    match (wish, probed) {
        (DeviceChoice::Gpu, probed) => {
            let probe = probed.context("--device gpu")?;
            eprintln!("using the GPU, as requested: {probe}");
        }
        (_, Ok(probe)) if probe.gpu_is_faster() => eprintln!("using the GPU, which is faster: {probe}"),
        (_, Ok(probe)) => {
            eprintln!("using the CPU, which is faster: {probe}");
            return Ok(device::cpu());
        }
        (_, Err(error)) => {
            eprintln!("using the CPU: {error:#}");
            return Ok(device::cpu());
        }
    }
    Ok(device::open(Kind::Gpu)?)
}

/// Probes the GPU in a child process.
async fn probe_in_child() -> anyhow::Result<Probe> {
    let program = std::env::current_exe().context("failed to find the path of this program")?;
    let mut command = Command::new(program);
    command.arg("probe-device").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(WITHIN, command.output());
    let output = output
        .await
        .map_err(|_| anyhow::anyhow!("the GPU did not respond within {} s", WITHIN.as_secs()))?
        .context("failed to start the probe")?;
    if !output.status.success() {
        bail!("the GPU driver ended the probe: {}", output.status);
    }
    let found: Result<Probe, String> = serde_json::from_slice(&output.stdout).context("invalid output of the probe")?;
    found.map_err(anyhow::Error::msg)
}

/// Probes the GPU in this process; call it in a child process.
///
/// # Errors
/// The reason why there is no usable GPU.
pub fn probe() -> Result<Probe, String> {
    let began = clock::instant();
    probe::probe(&|| began.elapsed())
}
