//! Devices: where networks compute. Owns the interface that a backend outside this crate implements; must not select a device.

use std::fmt::Debug;
use std::sync::Arc;

use crate::adam::Moments;
use crate::network::{CpuNetwork, Network, Weights};
use crate::training::{CpuTraining, TrainableNetwork};

/// Makes networks on one device.
pub trait NetworkBackend: Debug + Send + Sync {
    /// A network of `weights` that computes values and does not learn.
    fn network(&self, weights: &Weights) -> Box<dyn Network>;

    /// A network of the weights `online` that learns, with its target network and the optimiser's `moments`. All three
    /// have the same architecture.
    fn trainable(&self, online: &Weights, target: &Weights, moments: Moments) -> Box<dyn TrainableNetwork>;
}

/// A device, shared by all networks that compute on it.
#[derive(Debug, Clone)]
pub struct Device(Arc<dyn NetworkBackend>);

impl Device {
    /// A device that computes by `backend`.
    #[must_use]
    pub fn new(backend: impl NetworkBackend + 'static) -> Self {
        Self(Arc::new(backend))
    }

    /// See [`NetworkBackend::network`].
    #[must_use]
    pub fn network(&self, weights: &Weights) -> Box<dyn Network> {
        self.0.network(weights)
    }

    /// See [`NetworkBackend::trainable`].
    #[must_use]
    pub fn trainable(&self, online: &Weights, target: &Weights, moments: Moments) -> Box<dyn TrainableNetwork> {
        self.0.trainable(online, target, moments)
    }
}

impl Default for Device {
    fn default() -> Self {
        cpu()
    }
}

/// One core of the CPU: always available, and fastest for networks of a few hundred units a layer.
#[must_use]
pub fn cpu() -> Device {
    Device::new(CpuBackend)
}

#[derive(Debug)]
struct CpuBackend;

impl NetworkBackend for CpuBackend {
    fn network(&self, weights: &Weights) -> Box<dyn Network> {
        Box::new(CpuNetwork::new(weights))
    }

    fn trainable(&self, online: &Weights, target: &Weights, moments: Moments) -> Box<dyn TrainableNetwork> {
        Box::new(CpuTraining::new(online, target, moments))
    }
}
