//! The networks of [`qscale_rl`] on burn: on a GPU, and on the CPU as a reference. Owns opening a device and testing it
//! against the CPU implementation; must not decide which device is used.
//!
//! Only this crate links burn. Programs link it with their feature `gpu`.

mod network;
pub mod probe;
mod training;

use burn::tensor::Device as Tensors;
use network::BurnNetwork;
use qscale_rl::Device;
use qscale_rl::adam::Moments;
use qscale_rl::device::NetworkBackend;
use qscale_rl::network::{Network, Weights};
use qscale_rl::training::TrainableNetwork;
use thiserror::Error;
use training::BurnTraining;

/// Networks on one of burn's devices.
#[derive(Debug)]
struct BurnBackend(Tensors);

impl NetworkBackend for BurnBackend {
    fn network(&self, weights: &Weights) -> Box<dyn Network> {
        Box::new(BurnNetwork::new(weights, &self.0))
    }

    fn trainable(&self, online: &Weights, target: &Weights, moments: Moments) -> Box<dyn TrainableNetwork> {
        Box::new(BurnTraining::new(online, target, &moments, &self.0))
    }
}

/// No usable GPU was found.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no usable GPU: {0}")]
pub struct NoGpu(pub String);

/// The CPU, computed by burn's `flex` backend: a reference that shares no code with [`qscale_rl::cpu`].
#[must_use]
pub fn flex() -> Device {
    Device::new(BurnBackend(Tensors::flex()))
}

/// The first GPU that opens: discrete, integrated or virtual. Software adapters do not count.
///
/// A driver may end the process that opens it; probe it in a child process first.
///
/// # Errors
/// When no GPU opens, or this crate was compiled without the feature `gpu`.
#[cfg(feature = "gpu")]
pub fn gpu() -> Result<Device, NoGpu> {
    use burn::tensor::DeviceKind;
    let mut errors = Vec::new();
    for kind in [DeviceKind::DiscreteGpu(0), DeviceKind::IntegratedGpu(0), DeviceKind::VirtualGpu(0)] {
        match Tensors::wgpu_options().device_kind(kind).init() {
            Ok(device) => return Ok(Device::new(BurnBackend(device))),
            Err(error) => errors.push(error.to_string()),
        }
    }
    Err(NoGpu(errors.join("; ")))
}

/// The first GPU that opens.
///
/// # Errors
/// Always: this crate was compiled without the feature `gpu`.
#[cfg(not(feature = "gpu"))]
pub fn gpu() -> Result<Device, NoGpu> {
    Err(NoGpu("compiled without the feature `gpu`; compile with `--features gpu`".into()))
}

/// A software adapter: correct enough for a test, and never faster than the CPU itself.
///
/// # Errors
/// When there is none.
#[cfg(feature = "gpu")]
pub fn software() -> Result<Device, NoGpu> {
    let opened = Tensors::wgpu_options().device_kind(burn::tensor::DeviceKind::Cpu).init();
    opened.map(|device| Device::new(BurnBackend(device))).map_err(|error| NoGpu(error.to_string()))
}

#[cfg(test)]
mod tests;
