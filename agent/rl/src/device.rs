//! Devices: where networks compute. Owns opening one; which one is worth using is measured by whoever asks.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Where and how a network computes.
#[derive(Debug, Clone, Default)]
pub enum Device {
    /// On one core of the CPU, in loops of our own: always there, and fastest for networks of this size.
    #[default]
    Cpu,
    /// On a device of burn's.
    Burn(burn::tensor::Device),
}

/// Where a network should compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// On the CPU, in loops of our own.
    #[default]
    Cpu,
    /// On the CPU, as burn computes there: what the others are held against.
    Flex,
    /// On a GPU: discrete, integrated or virtual, the first that opens. A GPU that a CPU plays is none.
    Gpu,
}

/// There is no such device here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no GPU can be used: {0}")]
pub struct NoDevice(pub String);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Flex => "flex",
            Self::Gpu => "gpu",
        })
    }
}

impl FromStr for Kind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "flex" => Ok(Self::Flex),
            "gpu" => Ok(Self::Gpu),
            other => Err(format!("device = {other:?}, must be one of cpu flex gpu")),
        }
    }
}

/// The CPU, which is always there.
#[must_use]
pub fn cpu() -> Device {
    Device::Cpu
}

/// The CPU as burn computes there.
#[must_use]
pub fn flex() -> Device {
    Device::Burn(burn::tensor::Device::flex())
}

/// Opens a device of `kind`.
///
/// # Errors
/// When there is no GPU, or this program was built without the feature `gpu`.
pub fn open(kind: Kind) -> Result<Device, NoDevice> {
    match kind {
        Kind::Cpu => Ok(cpu()),
        Kind::Flex => Ok(flex()),
        Kind::Gpu => gpu(),
    }
}

/// A driver may end the process that opens it: whoever must live on opens it in a child process first.
#[cfg(feature = "gpu")]
fn gpu() -> Result<Device, NoDevice> {
    use burn::tensor::DeviceKind;
    let mut refusals = Vec::new();
    for kind in [DeviceKind::DiscreteGpu(0), DeviceKind::IntegratedGpu(0), DeviceKind::VirtualGpu(0)] {
        match burn::tensor::Device::wgpu_options().device_kind(kind).init() {
            Ok(device) => return Ok(Device::Burn(device)),
            Err(error) => refusals.push(error.to_string()),
        }
    }
    Err(NoDevice(refusals.join("; ")))
}

/// An adapter that a CPU plays: right for a test, and never faster than the CPU itself.
///
/// # Errors
/// When there is none.
#[cfg(feature = "gpu")]
pub fn software() -> Result<Device, NoDevice> {
    let opened = burn::tensor::Device::wgpu_options().device_kind(burn::tensor::DeviceKind::Cpu).init();
    opened.map(Device::Burn).map_err(|error| NoDevice(error.to_string()))
}

#[cfg(not(feature = "gpu"))]
fn gpu() -> Result<Device, NoDevice> {
    Err(NoDevice("this program was built without the feature `gpu`".into()))
}
