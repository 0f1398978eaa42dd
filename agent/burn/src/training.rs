//! The network that learns, its target network and Adam's moments as burn's tensors.

use burn::tensor::{Device, Tensor, TensorData};
use qscale_rl::adam::{BETA_1, BETA_2, Moments, StepSize};
use qscale_rl::network::{DeviceError, Network, Weights};
use qscale_rl::training::TrainableNetwork;

use crate::network::{BurnNetwork, read};

/// See [`TrainableNetwork`].
#[derive(Debug)]
pub(crate) struct BurnTraining {
    online: BurnNetwork,
    target: BurnNetwork,
    steps: u64,
    /// First and second moment of each tensor.
    moments: Vec<[Tensor<2>; 2]>,
}

impl BurnTraining {
    pub(crate) fn new(online: &Weights, target: &Weights, moments: &Moments, device: &Device) -> Self {
        let mut at = 0;
        let tensors = online.architecture().shapes().into_iter().map(|shape| {
            let part = at..at + shape[0] * shape[1];
            at = part.end;
            [&moments.first, &moments.second].map(|values| Tensor::from_data(TensorData::new(values[part.clone()].to_vec(), shape), device))
        });
        let moments_on_device = tensors.collect();
        let (online, target) = (BurnNetwork::new(online, device), BurnNetwork::new(target, device));
        Self { online, target, steps: moments.steps, moments: moments_on_device }
    }
}

impl TrainableNetwork for BurnTraining {
    fn online(&self) -> &dyn Network {
        &self.online
    }

    fn target(&self) -> &dyn Network {
        &self.target
    }

    fn online_quantiles(&mut self, observations: &[f32], values: &mut Vec<f32>) -> Result<(), DeviceError> {
        *values = self.online.quantiles(observations)?;
        Ok(())
    }

    fn target_quantiles(&mut self, observations: &[f32], values: &mut Vec<f32>) -> Result<(), DeviceError> {
        *values = self.target.quantiles(observations)?;
        Ok(())
    }

    fn step(&mut self, observations: &[f32], gradient_of: &mut dyn FnMut(&[f32]) -> Vec<f32>, size: StepSize) -> Result<(), DeviceError> {
        let pass = self.online.pass(observations);
        let slope = gradient_of(&pass.values()?);
        let gradients = self.online.backward(pass, slope);
        self.steps += 1;
        step(&mut self.moments, &mut self.online.tensors, gradients, size.corrected(self.steps));
        Ok(())
    }

    fn update_target(&mut self, rate: f32) {
        self.target.follow(&self.online, rate);
    }

    fn normalise(&mut self, shift: &[f32], scale: &[f32]) {
        self.online.normalise(shift, scale);
        self.target.normalise(shift, scale);
    }

    fn moments(&self) -> Result<Moments, DeviceError> {
        let mut moments = Moments { steps: self.steps, first: Vec::new(), second: Vec::new() };
        for [first, second] in &self.moments {
            moments.first.extend(read(first.clone())?);
            moments.second.extend(read(second.clone())?);
        }
        Ok(moments)
    }
}

/// One step of each of `tensors` against its gradient; a tensor without a gradient keeps its values.
fn step(moments: &mut Vec<[Tensor<2>; 2]>, tensors: &mut Vec<Tensor<2>>, gradients: Vec<Option<Tensor<2>>>, size: StepSize) {
    // By value, so that burn computes in place what has no other owner.
    let old = std::mem::take(tensors).into_iter().zip(std::mem::take(moments));
    for ((tensor, [first, second]), gradient) in old.zip(gradients) {
        let Some(gradient) = gradient else {
            tensors.push(tensor);
            moments.push([first, second]);
            continue;
        };
        let first = first.mul_scalar(BETA_1) + gradient.clone().mul_scalar(1.0 - BETA_1);
        let second = second.mul_scalar(BETA_2) + gradient.square().mul_scalar(1.0 - BETA_2);
        let direction = first.clone() / second.clone().sqrt().add_scalar(size.epsilon);
        tensors.push(tensor - direction.mul_scalar(size.rate));
        moments.push([first, second]);
    }
}
