//! Simulated functions under control, stepped together. Owns the numbering of worlds and the threads; the environment belongs to `qscale_train`.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;

use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use qscale_common::contract::Message as _;
use qscale_common::policy::ViolationCost;
use qscale_dqn::actions::Actions;
use qscale_dqn::observation::{self, COUNT};
use qscale_dqn::reward::{StepReward, TrainingReward};
use qscale_dqn::tasks::{Split, TaskDistribution};
use qscale_train::env::Env;
use qscale_train::world::world_number;
use serde::de::DeserializeOwned;

use crate::invalid;

/// Most functions in one batch: a function needs some 100 KiB.
const MAX_FUNCTIONS: usize = 100_000;
/// Most threads.
const MAX_THREADS: usize = 1024;

/// Observations, masks and step rewards of all functions, each as the bytes of an array.
type Batch<'py> = (Bound<'py, PyByteArray>, Bound<'py, PyByteArray>, Bound<'py, PyByteArray>);

/// A batch of simulated functions.
#[pyclass(module = "qscale._native")]
pub(crate) struct Worlds {
    actions: Actions,
    tasks: TaskDistribution,
    reward: TrainingReward,
    split: Split,
    violation_cost: Option<f64>,
    threads: NonZeroUsize,
    functions: usize,
    episodes: Vec<Episode>,
    seed: u64,
    drawn: u64,
}

/// A function in a world.
struct Episode {
    env: Env,
    number: u64,
    left: u32,
    step: StepReward,
}

#[pymethods]
impl Worlds {
    #[new]
    #[pyo3(signature = (functions, action_set = "headroom", scope = "joint", split = "training", violation_cost = None, threads = 1, tasks = None, reward = None))]
    #[expect(clippy::too_many_arguments, reason = "each is a keyword of the Python classes")]
    fn new(
        functions: usize,
        action_set: &str,
        scope: &str,
        split: &str,
        violation_cost: Option<f64>,
        threads: usize,
        tasks: Option<&str>,
        reward: Option<&str>,
    ) -> PyResult<Self> {
        if !(1..=MAX_FUNCTIONS).contains(&functions) {
            return Err(invalid(format_args!("functions = {functions}, must be from 1 to {MAX_FUNCTIONS}")));
        }
        let Some(threads) = NonZeroUsize::new(threads).filter(|threads| threads.get() <= MAX_THREADS) else {
            return Err(invalid(format_args!("threads = {threads}, must be from 1 to {MAX_THREADS}")));
        };
        let tasks: TaskDistribution = document("tasks", tasks)?;
        tasks.check().map_err(invalid)?;
        let reward: TrainingReward = document("reward", reward)?;
        reward.check().map_err(invalid)?;
        let split = match split {
            "training" => Split::Training,
            "validation" => Split::Validation,
            "test" => Split::Test,
            other => return Err(invalid(format_args!("split = {other:?}, must be training, validation or test"))),
        };
        let (actions, violation_cost) = (actions_of(action_set, scope)?, violation_cost_of(violation_cost)?);
        Ok(Self { actions, tasks, reward, split, violation_cost, threads, functions, episodes: Vec::new(), seed: 0, drawn: 0 })
    }

    /// Begins all functions in the first worlds of `seed`, as training with this seed does.
    fn begin(&mut self, py: Python<'_>, seed: u64) {
        (self.seed, self.drawn) = (seed, 0);
        py.detach(|| self.begin_all());
    }

    /// Begins function `index` in world `number`.
    fn begin_world(&mut self, index: usize, number: u64) -> PyResult<()> {
        if self.episodes.is_empty() && self.functions > 1 {
            return Err(invalid("the functions have no world yet; call begin first"));
        }
        let episode = self.episode(number);
        if self.episodes.is_empty() && index == 0 {
            self.episodes.push(episode);
            return Ok(());
        }
        *self.checked(index)? = episode;
        Ok(())
    }

    /// Begins function `index` in the next world.
    fn begin_next(&mut self, index: usize) -> PyResult<()> {
        self.checked(index)?;
        self.episodes[index] = self.next();
        Ok(())
    }

    /// Begins the next world for each function whose world has ended; returns their indices.
    fn renew(&mut self) -> Vec<usize> {
        let ended: Vec<usize> = (0..self.episodes.len()).filter(|index| self.episodes[*index].left == 0).collect();
        for index in &ended {
            self.episodes[*index] = self.next();
        }
        ended
    }

    /// Takes one action on each function, given as the bytes of an array of 64-bit integers, and simulates a tick. A masked action keeps the current
    /// allocation, unless it has the allocation of another one.
    fn step<'py>(&mut self, py: Python<'py>, actions: &[u8]) -> PyResult<Batch<'py>> {
        let chosen = self.chosen(actions)?;
        py.detach(|| self.simulate(&chosen));
        self.batch(py)
    }

    /// Observations, masks and the rewards of the last step.
    fn view<'py>(&self, py: Python<'py>) -> PyResult<Batch<'py>> {
        self.batch(py)
    }

    /// Ticks left in the world of each function; 0 if it has ended.
    fn left(&self) -> Vec<u32> {
        self.episodes.iter().map(|episode| episode.left).collect()
    }

    /// Number of the world of each function.
    fn numbers(&self) -> Vec<u64> {
        self.episodes.iter().map(|episode| episode.number).collect()
    }

    /// The State of function `index`, as JSON.
    fn state(&mut self, index: usize) -> PyResult<Vec<u8>> {
        Ok(self.checked(index)?.env.state().encode())
    }
}

impl Worlds {
    fn episode(&self, number: u64) -> Episode {
        let (env, left) = Env::of_world(&self.tasks, self.split, number, self.violation_cost, Some(&self.actions));
        Episode { env, number, left, step: StepReward::default() }
    }

    fn next(&mut self) -> Episode {
        let number = world_number(self.seed, self.drawn);
        self.drawn += 1;
        self.episode(number)
    }

    fn begin_all(&mut self) {
        self.episodes.clear();
        for _ in 0..self.functions {
            let episode = self.next();
            self.episodes.push(episode);
        }
    }

    fn checked(&mut self, index: usize) -> PyResult<&mut Episode> {
        let functions = self.episodes.len();
        self.episodes
            .get_mut(index)
            .ok_or_else(|| invalid(format_args!("index = {index}, must be below the {functions} functions that have a world")))
    }

    /// The actions in `bytes`, one for each function.
    fn chosen(&self, bytes: &[u8]) -> PyResult<Vec<usize>> {
        if self.episodes.is_empty() {
            return Err(invalid("step before the first reset; call reset first"));
        }
        if let Some(ended) = self.episodes.iter().position(|episode| episode.left == 0) {
            return Err(invalid(format_args!("the world of function {ended} has ended; call reset first")));
        }
        let (values, rest) = bytes.as_chunks::<8>();
        if values.len() != self.functions || !rest.is_empty() {
            return Err(invalid(format_args!("actions for {} functions, must be for {}", values.len(), self.functions)));
        }
        let most = self.actions.count() - 1;
        let action = |(index, value): (usize, &[u8; 8])| {
            let action = i64::from_ne_bytes(*value);
            let valid = usize::try_from(action).ok().filter(|action| *action <= most);
            valid.ok_or_else(|| invalid(format_args!("action of function {index} = {action}, must be from 0 to {most}")))
        };
        values.iter().enumerate().map(action).collect()
    }

    fn simulate(&mut self, chosen: &[usize]) {
        let (actions, reward) = (&self.actions, &self.reward);
        // Some functions take a hundred times as long as others, so that each thread takes one after the other.
        let waiting = Mutex::new(self.episodes.iter_mut().zip(chosen));
        let step_all = || {
            while let Some((episode, action)) = next(&waiting) {
                let allocation = episode.env.candidates().unmasked(*action);
                episode.step = episode.env.step(allocation, Some(actions), reward);
                episode.left -= 1;
            }
        };
        let others = self.threads.get().min(self.functions) - 1;
        if others == 0 {
            return step_all();
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..others).map(|_| scope.spawn(step_all)).collect();
            step_all();
            for thread in threads.into_iter().map(ScopedJoinHandle::join) {
                thread.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    }

    fn batch<'py>(&self, py: Python<'py>) -> PyResult<Batch<'py>> {
        let count = self.actions.count();
        let observations = PyByteArray::new_with(py, self.episodes.len() * COUNT * 4, |bytes| {
            for (row, episode) in bytes.chunks_exact_mut(COUNT * 4).zip(&self.episodes) {
                write(row, episode.env.observation());
            }
            Ok(())
        })?;
        let allowed = self.episodes.iter().flat_map(|episode| {
            let mask = episode.env.candidates().mask();
            (0..count).map(move |action| mask.allows(action))
        });
        let masks = flags(py, self.episodes.len() * count, allowed)?;
        let steps = PyByteArray::new_with(py, self.episodes.len() * 5 * 8, |bytes| {
            for (row, episode) in bytes.chunks_exact_mut(5 * 8).zip(&self.episodes) {
                let StepReward { reward, violation, cost, reversal, kills } = episode.step;
                let terms = [reward, violation, cost, reversal, kills];
                row.chunks_exact_mut(8).zip(terms).for_each(|(place, term)| place.copy_from_slice(&term.to_ne_bytes()));
            }
            Ok(())
        })?;
        Ok((observations, masks, steps))
    }
}

/// The next item of `waiting`.
fn next<I: Iterator>(waiting: &Mutex<I>) -> Option<I::Item> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// Names of the actions of a set, in order.
#[pyfunction]
#[pyo3(signature = (action_set = "headroom"))]
pub(crate) fn action_names(action_set: &str) -> PyResult<Vec<String>> {
    Ok(actions_of(action_set, "joint")?.names())
}

/// Names of the features of an observation, in order.
#[pyfunction]
pub(crate) fn feature_names() -> Vec<String> {
    observation::names()
}

/// The actions of the set and scope of these names.
pub(crate) fn actions_of(action_set: &str, scope: &str) -> PyResult<Actions> {
    let set = action_set.parse().map_err(|error: String| invalid(error))?;
    Ok(Actions::new(set, scope.parse().map_err(|error: String| invalid(error))?))
}

/// `cost`, if it is a violation cost.
pub(crate) fn violation_cost_of(cost: Option<f64>) -> PyResult<Option<f64>> {
    cost.map(|cost| ViolationCost::try_from(cost).map(ViolationCost::get)).transpose().map_err(invalid)
}

/// `values` as the bytes of an array.
pub(crate) fn floats<'py>(py: Python<'py>, values: &[f32]) -> PyResult<Bound<'py, PyByteArray>> {
    PyByteArray::new_with(py, values.len() * 4, |bytes| {
        write(bytes, values);
        Ok(())
    })
}

/// `flags`, of which there are `count`, as the bytes of an array.
pub(crate) fn flags<'py>(py: Python<'py>, count: usize, flags: impl Iterator<Item = bool>) -> PyResult<Bound<'py, PyByteArray>> {
    PyByteArray::new_with(py, count, |bytes| {
        bytes.iter_mut().zip(flags).for_each(|(place, flag)| *place = u8::from(flag));
        Ok(())
    })
}

fn write(bytes: &mut [u8], values: &[f32]) {
    bytes.chunks_exact_mut(4).zip(values).for_each(|(place, value)| place.copy_from_slice(&value.to_ne_bytes()));
}

/// The document in `text`, or its default.
fn document<T: DeserializeOwned + Default>(name: &str, text: Option<&str>) -> PyResult<T> {
    let Some(text) = text else { return Ok(T::default()) };
    serde_json::from_str(text).map_err(|error| invalid(format_args!("{name}: {error}")))
}
