//! Actions: the allocations among which the network chooses. Owns decoding and masking; must not value actions.
//!
//! Every action decodes to an absolute allocation within the State's bounds. An action that cannot be taken is masked,
//! both in selection and in targets; there is no penalty. Of several actions with the same allocation the first one is
//! kept.

use std::fmt;
use std::str::FromStr;

use qscale_common::contract::State;
use qscale_common::units::{Allocation, Mebibytes, Replicas};
use qscale_policies::Scope;
use qscale_policies::sizing::{DemandSizing, EstimatedDemand, fitted_memory};
use qscale_rl::Mask;
use serde::{Deserialize, Serialize};

use crate::context::{DemandHorizon, FeatureContext};

/// A list of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionSet {
    /// Multiples of the present or past demand: reacts to a burst in one step and is independent of the scale of the load.
    #[default]
    Headroom,
    /// Steps from the current allocation, as in the reproduced study and its successors.
    Step,
    /// All combinations of steps of replicas, CPU and memory from the current allocation, for a head with [`BRANCHES`].
    Grid,
}

/// Sizes of the branches whose product are the actions of [`ActionSet::Grid`]: replicas, CPU, memory.
pub const BRANCHES: [usize; 3] = [GRID_REPLICAS.len(), GRID_CPU.len(), GRID_MEMORY.len()];

const GRID_REPLICAS: [ActionTemplate; 5] = [
    ActionTemplate::Keep,
    ActionTemplate::Replicas(-1),
    ActionTemplate::Replicas(1),
    ActionTemplate::TimesReplicas(1.5),
    ActionTemplate::TimesReplicas(2.0),
];
const GRID_CPU: [f64; 4] = [1.0, 0.8, 1.25, 1.6];
const GRID_MEMORY: [f64; 3] = [1.0, 0.8, 1.25];

/// Implements `Display` and `FromStr` by names.
macro_rules! named {
    ($kind:ident, $what:literal, $($name:literal => $variant:ident),+) => {
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($kind::$variant => $name),+ })
            }
        }
        impl FromStr for $kind {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($name => Ok($kind::$variant),)+
                    other => Err(format!(concat!($what, " = {:?}, must be one of ", $($name, " "),+), other).trim_end().to_owned()),
                }
            }
        }
    };
}
pub(crate) use named;

named!(ActionSet, "action set", "headroom" => Headroom, "step" => Step, "grid" => Grid);

/// Multiples of the demand over several horizons: small steps around the present demand, larger ones above it, and past
/// peaks, so that a burst seen once can be provided for.
const PROVISIONS: [(DemandHorizon, f64); 15] = [
    (DemandHorizon::Next, 0.9),
    (DemandHorizon::Next, 1.1),
    (DemandHorizon::Next, 1.3),
    (DemandHorizon::Next, 1.6),
    (DemandHorizon::Next, 2.0),
    (DemandHorizon::Next, 2.7),
    (DemandHorizon::Next, 4.0),
    (DemandHorizon::Next, 6.5),
    (DemandHorizon::Minutes, 1.15),
    (DemandHorizon::Quarter, 1.15),
    (DemandHorizon::Hour, 1.15),
    (DemandHorizon::Hours, 1.15),
    (DemandHorizon::Usual, 1.15),
    (DemandHorizon::Rare, 1.15),
    (DemandHorizon::Season, 1.2),
];

/// Fraction of a replica that is rounded down.
const SPARE_REPLICA: f64 = 0.25;

/// An action before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ActionTemplate {
    /// Keeps replicas and CPU. In `headroom`, memory follows the working set.
    Keep,
    /// Adds replicas.
    Replicas(i64),
    /// Multiplies replicas, adding at least one.
    TimesReplicas(f64),
    /// Multiplies CPU.
    TimesCpu(f64),
    /// Multiplies memory.
    TimesMemory(f64),
    /// Adds replicas and multiplies CPU.
    ReplicasAndCpu(i64, f64),
    /// One of [`GRID_REPLICAS`]; multiplies CPU and memory.
    GridPoint(usize, f64, f64),
    /// Provides a multiple of the demand over a horizon.
    Provide(DemandHorizon, f64),
}

/// Why an action cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskReason {
    /// The current allocation is unknown.
    NoAllocation,
    /// The demand is unknown.
    NoDemand,
    /// It changes a part outside the scope.
    Scope,
    /// The bounds exclude it.
    Bounds,
    /// It has the same allocation as the action of this index.
    Same(usize),
    /// It leaves no replica, although the expected cost of a cold start exceeds the cost of one.
    WouldScaleToZero,
    /// It keeps a replica without load, although it costs more than the expected cost of a cold start.
    WouldKeepIdle,
}

impl fmt::Display for MaskReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAllocation => f.write_str("current allocation unknown"),
            Self::NoDemand => f.write_str("demand unknown"),
            Self::Scope => f.write_str("outside the scope"),
            Self::Bounds => f.write_str("outside the bounds"),
            Self::WouldScaleToZero => f.write_str("a request is likely enough to keep a replica"),
            Self::WouldKeepIdle => f.write_str("a request is too unlikely to keep a replica"),
            Self::Same(_) => f.write_str("same allocation as another action"),
        }
    }
}

/// The actions of a set within a scope.
#[derive(Debug, Clone, PartialEq)]
pub struct Actions {
    set: ActionSet,
    scope: Scope,
    templates: Vec<ActionTemplate>,
}

/// The allocation of each action for one State.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ActionCandidates {
    entries: Vec<Result<Allocation, MaskReason>>,
    mask: Mask,
    steady: bool,
}

impl ActionCandidates {
    /// The actions that can be taken.
    #[must_use]
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// Whether the set is `headroom`, the load is steady ([`FeatureContext::is_steady`]) and the function always keeps a replica.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        self.steady
    }

    /// The allocation of action `index`.
    ///
    /// # Errors
    /// Why the action cannot be taken.
    pub fn entry(&self, index: usize) -> Result<Allocation, MaskReason> {
        self.entries.get(index).copied().unwrap_or(Err(MaskReason::Scope))
    }

    /// The allocation of action `index` for a policy that ignores the mask: a duplicate has the allocation of the action that it repeats. `None` if it
    /// cannot be taken.
    #[must_use]
    pub fn unmasked(&self, index: usize) -> Option<Allocation> {
        match self.entry(index) {
            Ok(allocation) => Some(allocation),
            Err(MaskReason::Same(earlier)) => self.entry(earlier).ok(),
            Err(_) => None,
        }
    }
}

impl Actions {
    /// The actions of `set`. Those outside `scope` are masked, so that all scopes share one network.
    #[must_use]
    pub fn new(set: ActionSet, scope: Scope) -> Self {
        let templates = match set {
            ActionSet::Step => vec![
                ActionTemplate::Keep,
                ActionTemplate::Replicas(-1),
                ActionTemplate::Replicas(1),
                ActionTemplate::Replicas(2),
                ActionTemplate::TimesReplicas(1.5),
                ActionTemplate::TimesCpu(0.8),
                ActionTemplate::TimesCpu(1.25),
                ActionTemplate::TimesMemory(0.8),
                ActionTemplate::TimesMemory(1.25),
                ActionTemplate::ReplicasAndCpu(-1, 1.25),
                ActionTemplate::ReplicasAndCpu(1, 0.8),
            ],
            ActionSet::Grid => {
                let pairs = || GRID_CPU.into_iter().flat_map(|cpu| GRID_MEMORY.map(|memory| (cpu, memory)));
                (0..GRID_REPLICAS.len())
                    .flat_map(|step| pairs().map(move |(cpu, memory)| ActionTemplate::GridPoint(step, cpu, memory)))
                    .collect()
            }
            // Additional steps: a function that mostly waits needs more replicas than its CPU use suggests.
            ActionSet::Headroom => {
                let provide = PROVISIONS.map(|(horizon, factor)| ActionTemplate::Provide(horizon, factor));
                let steps = [
                    ActionTemplate::Replicas(-1),
                    ActionTemplate::Replicas(1),
                    ActionTemplate::TimesReplicas(1.5),
                    ActionTemplate::TimesReplicas(2.0),
                ];
                std::iter::once(ActionTemplate::Keep).chain(provide).chain(steps).collect()
            }
        };
        Self { set, scope, templates }
    }

    /// The set.
    #[must_use]
    pub fn set(&self) -> ActionSet {
        self.set
    }

    /// The scope.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Number of actions, at most [`Mask::CAPACITY`].
    #[must_use]
    pub fn count(&self) -> usize {
        self.templates.len()
    }

    /// The action that is taken unless another is clearly better: provide the 15-minute peak or, in a set without it,
    /// keep the current allocation. `None` if it cannot be taken.
    #[must_use]
    pub fn default_action(&self, candidates: &ActionCandidates) -> Option<usize> {
        let peak = |template: &ActionTemplate| matches!(template, ActionTemplate::Provide(DemandHorizon::Quarter, _));
        let action = self.templates.iter().position(peak).unwrap_or(0);
        match candidates.entry(action) {
            Ok(_) => Some(action),
            Err(MaskReason::Same(other)) => Some(other),
            Err(_) => None,
        }
    }

    /// The action with the allocation of action `index`: itself, the action whose allocation it repeats, or if it cannot be taken the default
    /// action, or else the first action that can be taken. `None` if none can.
    #[must_use]
    pub fn resolve(&self, index: usize, candidates: &ActionCandidates) -> Option<usize> {
        match candidates.entry(index) {
            Ok(_) => Some(index),
            Err(MaskReason::Same(other)) => Some(other),
            Err(_) => self.default_action(candidates).or_else(|| (0..self.count()).find(|action| candidates.mask().allows(*action))),
        }
    }

    /// Name of action `index`.
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        self.templates.get(index).map_or_else(|| format!("action {index}"), ActionTemplate::to_string)
    }

    /// Names of all actions, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.templates.iter().map(ActionTemplate::to_string).collect()
    }

    /// Replaces `candidates` by the allocations for `context`.
    pub fn decode(&self, context: &FeatureContext<'_>, candidates: &mut ActionCandidates) {
        candidates.entries.clear();
        candidates.mask = Mask::default();
        candidates.steady = self.set == ActionSet::Headroom && context.state.bounds.replicas.min().0 > 0 && context.is_steady();
        let Some(current) = context.state.allocation else {
            candidates.entries.resize(self.count(), Err(MaskReason::NoAllocation));
            return;
        };
        let demands = DemandHorizon::ALL.map(|horizon| context.demand(horizon));
        let (decides, pays) = (self.set == ActionSet::Headroom, context.keep_warm_ratio() >= 1.0);
        let nothing = context.history.idle_slots > 0 && demands[DemandHorizon::Next as usize] == Some(EstimatedDemand::default());
        let (warm, idle) = (decides && pays, decides && !pays && nothing && self.scope != Scope::Vertical);
        let decoder = Decoder { context, current, demands, warm, idle, memory: self.memory(context.state, current) };
        for (index, template) in self.templates.iter().enumerate() {
            let allocation = decoder.decode(*template, self.scope);
            let same = |wanted| {
                candidates.entries.iter().position(|earlier| *earlier == Ok(wanted)).map_or(Ok(wanted), |at| Err(MaskReason::Same(at)))
            };
            let entry = allocation.and_then(same);
            candidates.mask.0 |= u64::from(entry.is_ok()) << index;
            candidates.entries.push(entry);
        }
    }

    /// Memory of a replica in actions that do not set it: in `headroom` it follows the working set.
    fn memory(&self, state: &State, current: Allocation) -> Mebibytes {
        if self.set != ActionSet::Headroom || self.scope == Scope::Horizontal {
            return current.memory_mib;
        }
        fitted_memory(state, current.memory_mib)
    }
}

/// Decodes actions for one State.
struct Decoder<'a> {
    context: &'a FeatureContext<'a>,
    current: Allocation,
    demands: [Option<EstimatedDemand>; DemandHorizon::ALL.len()],
    /// Whether to keep a replica without load.
    warm: bool,
    /// Whether there is no load and keeping a replica does not pay.
    idle: bool,
    memory: Mebibytes,
}

impl Decoder<'_> {
    fn decode(&self, template: ActionTemplate, scope: Scope) -> Result<Allocation, MaskReason> {
        if !template.within(scope) {
            return Err(MaskReason::Scope);
        }
        let now = Allocation { memory_mib: self.memory, ..self.current };
        let allocation = self.context.state.bounds.clamp(self.unbounded(template, now, scope)?);
        match allocation.replicas.0 {
            0 if self.warm => Err(MaskReason::WouldScaleToZero),
            1.. if self.idle && self.context.state.bounds.replicas.min().0 == 0 => Err(MaskReason::WouldKeepIdle),
            _ => Ok(allocation),
        }
    }

    /// The allocation of `template`, ignoring the bounds.
    fn unbounded(&self, template: ActionTemplate, now: Allocation, scope: Scope) -> Result<Allocation, MaskReason> {
        Ok(match template {
            ActionTemplate::Keep => now,
            ActionTemplate::Replicas(by) => Allocation { replicas: stepped(now.replicas, by)?, ..now },
            ActionTemplate::TimesReplicas(factor) => {
                Allocation { replicas: Replicas(now.replicas.scaled(factor).0.max(now.replicas.0.saturating_add(1))), ..now }
            }
            ActionTemplate::TimesCpu(factor) => Allocation { cpu_millicores: now.cpu_millicores.scaled(factor), ..now },
            ActionTemplate::TimesMemory(factor) => Allocation { memory_mib: now.memory_mib.scaled(factor), ..now },
            ActionTemplate::ReplicasAndCpu(by, factor) => {
                Allocation { replicas: stepped(now.replicas, by)?, cpu_millicores: now.cpu_millicores.scaled(factor), ..now }
            }
            ActionTemplate::GridPoint(step, cpu, memory) => Allocation {
                cpu_millicores: now.cpu_millicores.scaled(cpu),
                memory_mib: now.memory_mib.scaled(memory),
                ..self.unbounded(GRID_REPLICAS[step], now, scope)?
            },
            ActionTemplate::Provide(horizon, factor) => {
                let demand = self.demands[horizon as usize].ok_or(MaskReason::NoDemand)?;
                // For past peaks, the number of replicas that were full then is enough.
                let past = !matches!(horizon, DemandHorizon::Next | DemandHorizon::Season);
                let full = if past { demand.full - 0.05 } else { demand.full * factor - SPARE_REPLICA };
                let (state, request_seconds) = (self.context.state, self.context.history.request_seconds);
                let sizing = DemandSizing { state, current: now, request_seconds, idle: Replicas(u32::from(self.warm)), scope };
                sizing.provide(EstimatedDemand { cores: demand.cores * factor, full: full.max(0.0) }).ok_or(MaskReason::Bounds)?
            }
        })
    }
}

/// `replicas` plus `by`; out of bounds if negative.
fn stepped(replicas: Replicas, by: i64) -> Result<Replicas, MaskReason> {
    u32::try_from(i64::from(replicas.0) + by).map(Replicas).map_err(|_| MaskReason::Bounds)
}

impl ActionTemplate {
    /// Whether it changes only parts in `scope`, as far as the template determines it.
    fn within(self, scope: Scope) -> bool {
        let changes = match self {
            Self::Keep | Self::Provide(..) => return true,
            Self::Replicas(_) | Self::TimesReplicas(_) => Scope::Horizontal,
            Self::TimesCpu(_) | Self::TimesMemory(_) => Scope::Vertical,
            Self::ReplicasAndCpu(..) => Scope::Joint,
            Self::GridPoint(step, cpu, memory) => match (GRID_REPLICAS[step] == Self::Keep, cpu == 1.0 && memory == 1.0) {
                (true, true) => return true,
                (true, false) => Scope::Vertical,
                (false, true) => Scope::Horizontal,
                (false, false) => Scope::Joint,
            },
        };
        scope == Scope::Joint || scope == changes
    }
}

impl fmt::Display for ActionTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Replicas(by) => write!(f, "replicas {by:+}"),
            Self::TimesReplicas(factor) => write!(f, "replicas x{factor}"),
            Self::TimesCpu(factor) => write!(f, "cpu x{factor}"),
            Self::TimesMemory(factor) => write!(f, "memory x{factor}"),
            Self::ReplicasAndCpu(by, factor) => write!(f, "replicas {by:+}, cpu x{factor}"),
            Self::GridPoint(step, cpu, memory) => {
                write!(f, "{}", GRID_REPLICAS[*step])?;
                [(cpu, "cpu"), (memory, "memory")]
                    .iter()
                    .filter(|(factor, _)| **factor != 1.0)
                    .try_for_each(|(factor, of)| write!(f, ", {of} x{factor}"))
            }
            Self::Provide(horizon, factor) => {
                let of = match horizon {
                    DemandHorizon::Next => "demand",
                    DemandHorizon::Minutes => "peak of 5 minutes",
                    DemandHorizon::Quarter => "peak of 15 minutes",
                    DemandHorizon::Hour => "peak of an hour",
                    DemandHorizon::Hours => "peak of 4 hours",
                    DemandHorizon::Usual => "usual peak",
                    DemandHorizon::Rare => "rare peak",
                    DemandHorizon::Season => "season",
                };
                write!(f, "{of} x{factor}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
