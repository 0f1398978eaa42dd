//! A network that learns: the online network, its target network and the optimiser, on one device. Owns the interface
//! and the implementation on the CPU; must not know how a loss is computed.

use crate::adam::{Moments, StepSize};
use crate::network::{CpuNetwork, DeviceError, Network, Scratch, Weights};

/// The network that learns, its target network and the optimiser's moments, on one device.
pub trait TrainableNetwork: Send + Sync {
    /// The network that learns.
    fn online(&self) -> &dyn Network;

    /// The target network.
    fn target(&self) -> &dyn Network;

    /// Replaces `values` by the quantiles of the online network ([`Network::quantiles`]).
    ///
    /// # Errors
    /// When the device fails.
    fn online_quantiles(&mut self, observations: &[f32], values: &mut Vec<f32>) -> Result<(), DeviceError>;

    /// Replaces `values` by the quantiles of the target network.
    ///
    /// # Errors
    /// When the device fails.
    fn target_quantiles(&mut self, observations: &[f32], values: &mut Vec<f32>) -> Result<(), DeviceError>;

    /// One step of the optimiser: `gradient_of` gets the quantiles of the online network for `observations` and returns
    /// the gradient of the loss by each.
    ///
    /// # Errors
    /// When the device fails.
    fn step(&mut self, observations: &[f32], gradient_of: &mut dyn FnMut(&[f32]) -> Vec<f32>, size: StepSize) -> Result<(), DeviceError>;

    /// Moves the weights of the target network by the share `rate` towards those of the online network.
    fn update_target(&mut self, rate: f32);

    /// Sets the normalisation of observations in both networks: `shift` is subtracted, the rest is multiplied by `scale`.
    fn normalise(&mut self, shift: &[f32], scale: &[f32]);

    /// A copy of the optimiser's moments.
    ///
    /// # Errors
    /// When the device fails.
    fn moments(&self) -> Result<Moments, DeviceError>;
}

/// The implementation on one core of the CPU.
#[derive(Debug)]
pub(crate) struct CpuTraining {
    online: CpuNetwork,
    target: CpuNetwork,
    moments: Moments,
    scratch: Scratch,
    gradient: Vec<f32>,
}

impl CpuTraining {
    pub(crate) fn new(online: &Weights, target: &Weights, moments: Moments) -> Self {
        let (online, target) = (CpuNetwork::new(online), CpuNetwork::new(target));
        Self { online, target, moments, scratch: Scratch::default(), gradient: Vec::new() }
    }
}

impl TrainableNetwork for CpuTraining {
    fn online(&self) -> &dyn Network {
        &self.online
    }

    fn target(&self) -> &dyn Network {
        &self.target
    }

    fn online_quantiles(&mut self, observations: &[f32], values: &mut Vec<f32>) -> Result<(), DeviceError> {
        self.online.forward(observations, &mut self.scratch);
        std::mem::swap(values, &mut self.scratch.values);
        Ok(())
    }

    fn target_quantiles(&mut self, observations: &[f32], values: &mut Vec<f32>) -> Result<(), DeviceError> {
        self.target.forward(observations, &mut self.scratch);
        std::mem::swap(values, &mut self.scratch.values);
        Ok(())
    }

    fn step(&mut self, observations: &[f32], gradient_of: &mut dyn FnMut(&[f32]) -> Vec<f32>, size: StepSize) -> Result<(), DeviceError> {
        self.online.forward(observations, &mut self.scratch);
        let slope = gradient_of(&self.scratch.values);
        self.online.backward(&mut self.scratch, &slope, &mut self.gradient);
        self.moments.step(self.online.parameters_mut(), &self.gradient, size);
        Ok(())
    }

    fn update_target(&mut self, rate: f32) {
        let pairs = self.target.parameters_mut().iter_mut().zip(self.online.parameters());
        pairs.for_each(|(target, online)| *target += rate * (online - *target));
    }

    fn normalise(&mut self, shift: &[f32], scale: &[f32]) {
        self.online.normalise(shift, scale);
        self.target.normalise(shift, scale);
    }

    fn moments(&self) -> Result<Moments, DeviceError> {
        Ok(self.moments.clone())
    }
}
