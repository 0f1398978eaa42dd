//! The device that computes a training: as requested, or as measured. Owns the probe, which runs in a process of its
//! own because a driver may end the process that opens it.

use std::str::FromStr;

/// The requested device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The GPU if it is faster and computes the same, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU.
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

#[cfg(not(feature = "gpu"))]
const WITHOUT_GPU: &str = "compiled without the feature `gpu`; compile with `cargo build -p qscale --features gpu`";

/// Opens the requested device.
///
/// # Errors
/// When the GPU is requested and cannot be used.
#[cfg(not(feature = "gpu"))]
pub async fn choose(choice: DeviceChoice) -> anyhow::Result<qscale_rl::Device> {
    match choice {
        DeviceChoice::Gpu => anyhow::bail!("--device gpu: {WITHOUT_GPU}"),
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(qscale_rl::cpu()),
    }
}

/// Probes the GPU in this process; call it in a child process.
///
/// # Errors
/// Always, because there is no GPU support.
#[cfg(not(feature = "gpu"))]
pub fn probe() -> Result<(), String> {
    Err(WITHOUT_GPU.to_owned())
}

#[cfg(feature = "gpu")]
pub use with_gpu::{choose, probe};

#[cfg(feature = "gpu")]
mod with_gpu {
    use std::process::Stdio;
    use std::time::Duration;

    use anyhow::{Context, bail};
    use qscale_burn::probe::Probe;
    use qscale_common::runtime::clock;
    use qscale_rl::cpu;
    use tokio::process::Command;

    use super::DeviceChoice;

    /// Time limit of a probe; compiling shaders for the first time takes seconds.
    const PROBE_TIMEOUT: Duration = Duration::from_secs(120);

    /// Opens the requested device, and reports the choice on standard error.
    ///
    /// # Errors
    /// When the GPU is requested and cannot be used.
    pub async fn choose(choice: DeviceChoice) -> anyhow::Result<qscale_rl::Device> {
        if choice == DeviceChoice::Cpu {
            return Ok(cpu());
        }
        let probed =
            measure().await.and_then(|probe| if let Some(objection) = probe.objection() { bail!("{objection}") } else { Ok(probe) });
        match (choice, probed) {
            (DeviceChoice::Gpu, probed) => {
                let probe = probed.context("--device gpu")?;
                eprintln!("computing on the GPU, as requested: {probe}");
            }
            (_, Ok(probe)) if probe.gpu_is_faster() => eprintln!("computing on the GPU, which is faster: {probe}"),
            (_, Ok(probe)) => {
                eprintln!("computing on the CPU, which is faster: {probe}");
                return Ok(cpu());
            }
            (_, Err(error)) => {
                eprintln!("computing on the CPU: {error:#}");
                return Ok(cpu());
            }
        }
        Ok(qscale_burn::gpu()?)
    }

    /// Probes the GPU in a child process.
    async fn measure() -> anyhow::Result<Probe> {
        let program = std::env::current_exe().context("failed to find this program")?;
        let mut command = Command::new(program);
        command.arg("probe-device").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PROBE_TIMEOUT, command.output());
        let output = output
            .await
            .map_err(|_| anyhow::anyhow!("the GPU did not answer within {} s", PROBE_TIMEOUT.as_secs()))?
            .context("failed to start the probe")?;
        if !output.status.success() {
            bail!("the GPU driver ended the probe: {}", output.status);
        }
        let found: Result<Probe, String> = serde_json::from_slice(&output.stdout).context("failed to read the result of the probe")?;
        found.map_err(anyhow::Error::msg)
    }

    /// Probes the GPU in this process; call it in a child process.
    ///
    /// # Errors
    /// The reason why there is no usable GPU.
    pub fn probe() -> Result<Probe, String> {
        let began = clock::instant();
        qscale_burn::probe::probe(&|| clock::since(began))
    }
}
