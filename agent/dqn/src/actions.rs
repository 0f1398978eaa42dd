//! Actions: what the network may choose, and which allocation each choice names. Owns decoding and masking; must not value anything.
//!
//! Choices are absolute in effect: each names an allocation within the State's bounds. A choice that cannot be taken is masked, both when choosing and in
//! the target, and never punished. Of several choices that name one allocation the first stands.

use std::fmt;
use std::str::FromStr;

use qscale_common::contract::State;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use qscale_rl::Mask;
use serde::{Deserialize, Serialize};

use crate::sight::{Basis, Need, Sight, measured};

/// Which choices there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionSet {
    /// Multiples of what the load asks for or asked for, in several shapes: reacts to a burst in one step, and does not know the scale of the load.
    #[default]
    Headroom,
    /// Steps from what is in force, as in the study and its successors.
    Step,
    /// Steps of replicas, of CPU and of memory from what is in force, each with each: what a head of [`BRANCHES`] is for.
    Grid,
}

/// Sizes of the branches that the actions of [`ActionSet::Grid`] are the product of: replicas, CPU, memory.
pub const BRANCHES: [usize; 3] = [GRID_REPLICAS.len(), GRID_CPU.len(), GRID_MEMORY.len()];

const GRID_REPLICAS: [Form; 5] = [Form::Keep, Form::Replicas(-1), Form::Replicas(1), Form::TimesReplicas(1.5), Form::TimesReplicas(2.0)];
const GRID_CPU: [f64; 4] = [1.0, 0.8, 1.25, 1.6];
const GRID_MEMORY: [f64; 3] = [1.0, 0.8, 1.25];

/// Which parts of the allocation may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The number of replicas.
    Horizontal,
    /// CPU and memory of each replica.
    Vertical,
    /// All of it.
    #[default]
    Joint,
}

/// Names for people and for command lines.
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
named!(Scope, "scope", "horizontal" => Horizontal, "vertical" => Vertical, "joint" => Joint);

/// What can be provided for: how many times what. Small steps where a load stands, larger ones above it, and what was highest so that a burst which was seen
/// once need not surprise again.
const PROVISIONS: [(Basis, f64); 15] = [
    (Basis::Next, 0.9),
    (Basis::Next, 1.1),
    (Basis::Next, 1.3),
    (Basis::Next, 1.6),
    (Basis::Next, 2.0),
    (Basis::Next, 2.7),
    (Basis::Next, 4.0),
    (Basis::Next, 6.5),
    (Basis::Minutes, 1.15),
    (Basis::Quarter, 1.15),
    (Basis::Hour, 1.15),
    (Basis::Hours, 1.15),
    (Basis::Usual, 1.15),
    (Basis::Rare, 1.15),
    (Basis::Season, 1.2),
];

/// Share of the objective that a request may take by computing alone; smaller replicas are not named.
const OWN_SHARE: f64 = 0.5;
/// So much more than is asked for is no reason to take it away, and so much less none to add it.
const SPARE: f64 = 1.2;
const SHORT: f64 = 0.97;
/// A fraction of a replica that is not worth one more.
const SPARE_REPLICA: f64 = 0.25;

/// One choice, before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// Replicas and CPU stay. Memory follows the working set where the set fits it.
    Keep,
    /// So many replicas more or less.
    Replicas(i64),
    /// So many times the replicas, at least one more or less.
    TimesReplicas(f64),
    /// So many times the CPU.
    TimesCpu(f64),
    /// So many times the memory.
    TimesMemory(f64),
    /// Replicas more or less, and so many times the CPU.
    Trade(i64, f64),
    /// One of [`GRID_REPLICAS`], and so many times the CPU and the memory.
    Each(usize, f64, f64),
    /// So many times what is asked for.
    Provide(Basis, f64),
}

/// Why a choice cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masked {
    /// What is in force is not known.
    NoAllocation,
    /// What the load asks for is not known.
    NoDemand,
    /// The scope keeps what it would change.
    Scope,
    /// The bounds do not allow it.
    Bounds,
    /// It names the allocation that the choice of this number names.
    Same(usize),
    /// It leaves no replica where the chance of a request is worth more than one costs.
    Cold,
    /// It keeps a replica where nothing is there and the chance of a request is worth less than one costs.
    Idle,
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAllocation => f.write_str("what is in force is not known"),
            Self::NoDemand => f.write_str("what the load asks for is not known"),
            Self::Scope => f.write_str("outside the scope"),
            Self::Bounds => f.write_str("outside the bounds"),
            Self::Cold => f.write_str("a request is likely enough that one replica pays"),
            Self::Idle => f.write_str("a request is so unlikely that no replica pays"),
            Self::Same(_) => f.write_str("same allocation as another action"),
        }
    }
}

/// The choices of an action set within a scope.
#[derive(Debug, Clone, PartialEq)]
pub struct Actions {
    set: ActionSet,
    scope: Scope,
    forms: Vec<Form>,
}

/// What each choice names for one State.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Menu {
    entries: Vec<Result<Allocation, Masked>>,
    mask: Mask,
}

impl Menu {
    /// Which choices can be taken.
    #[must_use]
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// What choice number `index` names, or why it cannot be taken.
    ///
    /// # Errors
    /// Why it cannot be taken.
    pub fn entry(&self, index: usize) -> Result<Allocation, Masked> {
        self.entries.get(index).copied().unwrap_or(Err(Masked::Scope))
    }
}

impl Actions {
    /// The choices of `set`; those outside `scope` are masked, so that every scope has the same network.
    #[must_use]
    pub fn new(set: ActionSet, scope: Scope) -> Self {
        let forms = match set {
            ActionSet::Step => vec![
                Form::Keep,
                Form::Replicas(-1),
                Form::Replicas(1),
                Form::Replicas(2),
                Form::TimesReplicas(1.5),
                Form::TimesCpu(0.8),
                Form::TimesCpu(1.25),
                Form::TimesMemory(0.8),
                Form::TimesMemory(1.25),
                Form::Trade(-1, 1.25),
                Form::Trade(1, 0.8),
            ],
            ActionSet::Grid => {
                let pairs = || GRID_CPU.into_iter().flat_map(|cpu| GRID_MEMORY.map(|memory| (cpu, memory)));
                (0..GRID_REPLICAS.len()).flat_map(|step| pairs().map(move |(cpu, memory)| Form::Each(step, cpu, memory))).collect()
            }
            // Steps besides: what waits for others more than it computes asks for replicas that its CPU does not tell.
            ActionSet::Headroom => {
                let provide = PROVISIONS.map(|(basis, factor)| Form::Provide(basis, factor));
                let steps = [Form::Replicas(-1), Form::Replicas(1), Form::TimesReplicas(1.5), Form::TimesReplicas(2.0)];
                std::iter::once(Form::Keep).chain(provide).chain(steps).collect()
            }
        };
        Self { set, scope, forms }
    }

    /// Which set these are.
    #[must_use]
    pub fn set(&self) -> ActionSet {
        self.set
    }

    /// Which scope they keep to.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// How many choices there are, at most [`Mask::CAPACITY`].
    #[must_use]
    pub fn count(&self) -> usize {
        self.forms.len()
    }

    /// The choice of `menu` that stands where none is worth clearly more: the peak of a quarter of an hour, so that what was asked for lately stays; in a set
    /// without it what is in force. `None` where it cannot be taken.
    #[must_use]
    pub fn default_choice(&self, menu: &Menu) -> Option<usize> {
        let peak = |form: &Form| matches!(form, Form::Provide(Basis::Quarter, _));
        let choice = self.forms.iter().position(peak).unwrap_or(0);
        match menu.entry(choice) {
            Ok(_) => Some(choice),
            Err(Masked::Same(other)) => Some(other),
            Err(_) => None,
        }
    }

    /// What choice number `index` is called.
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        self.forms.get(index).map_or_else(|| format!("choice {index}"), Form::to_string)
    }

    /// What they are called, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.forms.iter().map(Form::to_string).collect()
    }

    /// What each choice names for what is seen, into `menu`.
    pub fn decode(&self, sight: &Sight<'_>, menu: &mut Menu) {
        menu.entries.clear();
        menu.mask = Mask::default();
        let Some(current) = sight.state.allocation else {
            menu.entries.resize(self.count(), Err(Masked::NoAllocation));
            return;
        };
        let needs = Basis::ALL.map(|basis| sight.need(basis));
        let (decides, pays) = (self.set == ActionSet::Headroom, sight.warm_worth() >= 1.0);
        let nothing = sight.told.idle_slots > 0 && needs[Basis::Next as usize] == Some(Need::default());
        let (warm, idle) = (decides && pays, decides && !pays && nothing && self.scope != Scope::Vertical);
        let case = Case { sight, current, needs, warm, idle, memory: self.memory(sight.state, current) };
        for (index, form) in self.forms.iter().enumerate() {
            let named = case.decode(*form, self.scope);
            let same =
                |wanted| menu.entries.iter().position(|earlier| *earlier == Ok(wanted)).map_or(Ok(wanted), |at| Err(Masked::Same(at)));
            let entry = named.and_then(same);
            menu.mask.0 |= u64::from(entry.is_ok()) << index;
            menu.entries.push(entry);
        }
    }

    /// What memory a replica is given where the choice does not say it: in `headroom` it follows the working set, since more than that buys nothing.
    fn memory(&self, state: &State, current: Allocation) -> Mebibytes {
        if self.set != ActionSet::Headroom || self.scope == Scope::Horizontal {
            return current.memory_mib;
        }
        fitted_memory(state, current.memory_mib)
    }
}

/// Memory in force where it is 1.2 to 2 times the largest working set seen, else 1.5 times that; half as much again after a kill for memory.
fn fitted_memory(state: &State, current: Mebibytes) -> Mebibytes {
    let windows = &state.windows;
    let clamp = |memory| state.bounds.memory_mib.clamp(memory);
    if windows.tick.oom_kills > 0 {
        return clamp(current.scaled(1.5));
    }
    let usage =
        [&windows.tick, &windows.short, &windows.long].into_iter().filter_map(|window| measured(window.memory_mib.map(|usage| usage.max)));
    let Some(used) = usage.max_by(f64::total_cmp).filter(|used| *used > 0.0) else { return current };
    let margin = f64::from(current.0) / used;
    let killed_lately = windows.long.oom_kills > 0;
    if margin < 1.2 || (margin > 2.0 && !killed_lately) { clamp(Mebibytes((used * 1.5).ceil() as u32)) } else { current }
}

struct Case<'a> {
    sight: &'a Sight<'a>,
    current: Allocation,
    needs: [Option<Need>; Basis::ALL.len()],
    /// Whether one replica pays while nothing comes.
    warm: bool,
    /// Whether nothing comes and none pays.
    idle: bool,
    memory: Mebibytes,
}

impl Case<'_> {
    fn decode(&self, form: Form, scope: Scope) -> Result<Allocation, Masked> {
        if !form.within(scope) {
            return Err(Masked::Scope);
        }
        let now = Allocation { memory_mib: self.memory, ..self.current };
        let wanted = self.sight.state.bounds.clamp(self.named(form, now, scope)?);
        match wanted.replicas.0 {
            0 if self.warm => Err(Masked::Cold),
            1.. if self.idle && self.sight.state.bounds.replicas.min().0 == 0 => Err(Masked::Idle),
            _ => Ok(wanted),
        }
    }

    /// What `form` names, whatever the bounds.
    fn named(&self, form: Form, now: Allocation, scope: Scope) -> Result<Allocation, Masked> {
        Ok(match form {
            Form::Keep => now,
            Form::Replicas(by) => Allocation { replicas: stepped(now.replicas, by)?, ..now },
            Form::TimesReplicas(factor) => Allocation { replicas: Replicas(now.replicas.scaled(factor).0.max(now.replicas.0 + 1)), ..now },
            Form::TimesCpu(factor) => Allocation { cpu_millicores: now.cpu_millicores.scaled(factor), ..now },
            Form::TimesMemory(factor) => Allocation { memory_mib: now.memory_mib.scaled(factor), ..now },
            Form::Trade(by, factor) => {
                Allocation { replicas: stepped(now.replicas, by)?, cpu_millicores: now.cpu_millicores.scaled(factor), ..now }
            }
            Form::Each(step, cpu, memory) => Allocation {
                cpu_millicores: now.cpu_millicores.scaled(cpu),
                memory_mib: now.memory_mib.scaled(memory),
                ..self.named(GRID_REPLICAS[step], now, scope)?
            },
            Form::Provide(basis, factor) => {
                let need = self.needs[basis as usize].ok_or(Masked::NoDemand)?;
                // Of what was highest as many replicas as were full then are enough.
                let seen = !matches!(basis, Basis::Next | Basis::Season);
                let full = if seen { need.full - 0.05 } else { need.full * factor - SPARE_REPLICA };
                self.provide(now, scope, Need { cores: need.cores * factor, full: full.max(0.0) })?
            }
        })
    }

    /// As much as `need`, as far as `scope` lets it.
    fn provide(&self, now: Allocation, scope: Scope, need: Need) -> Result<Allocation, Masked> {
        let bounds = &self.sight.state.bounds;
        let (cores, full) = (need.cores, need.full.ceil().max(1.0).min(f64::from(u32::MAX)) as u32);
        let nothing = need.cores == 0.0 && need.full == 0.0;
        let cpu = bounds.cpu_millicores.clamp(now.cpu_millicores);
        let most = bounds.cpu_millicores.clamp(on_grid(self.sight.useful_cores()));
        let named = match scope {
            Scope::Vertical if now.replicas.0 == 0 => return Err(Masked::Bounds),
            Scope::Vertical => Allocation { cpu_millicores: self.sized(cores, now.replicas.0), ..now },
            _ if nothing => Allocation { replicas: Replicas(u32::from(self.warm)), ..now },
            Scope::Horizontal => Allocation { replicas: Replicas(replicas(cores, cpu.min(most)).0.max(full)), ..now },
            Scope::Joint => {
                // As few replicas as carry it, none larger than it can use; what there is of them stays while it is not twice as many, since CPU follows at
                // once and replicas do not.
                let fewest = bounds.replicas.clamp(Replicas(replicas(cores, most).0.max(full)));
                let total = |count: Replicas| bounds.cpu_millicores.clamp(self.sized(cores, count.0)).cores() * f64::from(count.0);
                let stays =
                    fewest <= now.replicas && now.replicas.0 <= fewest.0.saturating_mul(2) && total(now.replicas) <= SPARE * total(fewest);
                let count = if stays { now.replicas } else { fewest };
                Allocation { replicas: count, cpu_millicores: self.sized(cores, count.0), ..now }
            }
        };
        Ok(self.settled(named))
    }

    /// CPU of each of so many replicas that provide `cores`, at least what lets a request keep to the objective.
    fn sized(&self, cores: f64, count: u32) -> Millicores {
        let objective_s = self.sight.state.objective.latency_ms as f64 / 1000.0 * OWN_SHARE;
        let own = (self.sight.told.request_seconds.unwrap_or(0.0) / objective_s.max(1e-3)).min(1.0);
        on_grid((cores / f64::from(count.max(1))).max(own).min(1e6))
    }

    /// What is in force where `named` is about as much, so that noise does not resize replicas.
    fn settled(&self, named: Allocation) -> Allocation {
        let (has, wants) = (f64::from(self.current.cpu_millicores.0), f64::from(named.cpu_millicores.0));
        let about = named.replicas == self.current.replicas && has * SPARE.recip() <= wants && wants * SHORT <= has;
        if about { Allocation { cpu_millicores: self.current.cpu_millicores, ..named } } else { named }
    }
}

/// So many replicas more or less; fewer than none cannot be.
fn stepped(replicas: Replicas, by: i64) -> Result<Replicas, Masked> {
    u32::try_from(i64::from(replicas.0) + by).map(Replicas).map_err(|_| Masked::Bounds)
}

/// Replicas of `cpu` that provide `cores`; at least one where there is any demand.
fn replicas(cores: f64, cpu: Millicores) -> Replicas {
    // A whole number that rounding put a hair above itself is that number.
    Replicas((cores / cpu.cores().max(1e-3) - 1e-9).ceil().max(0.0) as u32)
}

/// The next step at or above `cores` on a ladder of tenths more, so that noise in the estimate does not resize replicas.
fn on_grid(cores: f64) -> Millicores {
    const STEP: f64 = 1.1;
    let least = 0.01;
    let steps = ((cores.max(least) / least).ln() / STEP.ln() - 1e-9).ceil();
    Millicores((least * STEP.powf(steps) * 1000.0).round() as u32)
}

impl Form {
    /// Whether it changes nothing that `scope` keeps, as far as its form says.
    fn within(self, scope: Scope) -> bool {
        let changes = match self {
            Self::Keep | Self::Provide(..) => return true,
            Self::Replicas(_) | Self::TimesReplicas(_) => Scope::Horizontal,
            Self::TimesCpu(_) | Self::TimesMemory(_) => Scope::Vertical,
            Self::Trade(..) => Scope::Joint,
            Self::Each(step, cpu, memory) => match (GRID_REPLICAS[step] == Self::Keep, cpu == 1.0 && memory == 1.0) {
                (true, true) => return true,
                (true, false) => Scope::Vertical,
                (false, true) => Scope::Horizontal,
                (false, false) => Scope::Joint,
            },
        };
        scope == Scope::Joint || scope == changes
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Replicas(by) => write!(f, "replicas {by:+}"),
            Self::TimesReplicas(factor) => write!(f, "replicas x{factor}"),
            Self::TimesCpu(factor) => write!(f, "cpu x{factor}"),
            Self::TimesMemory(factor) => write!(f, "memory x{factor}"),
            Self::Trade(by, factor) => write!(f, "replicas {by:+}, cpu x{factor}"),
            Self::Each(step, cpu, memory) => {
                write!(f, "{}", GRID_REPLICAS[*step])?;
                [(cpu, "cpu"), (memory, "memory")]
                    .iter()
                    .filter(|(factor, _)| **factor != 1.0)
                    .try_for_each(|(factor, of)| write!(f, ", {of} x{factor}"))
            }
            Self::Provide(basis, factor) => {
                let of = match basis {
                    Basis::Next => "demand",
                    Basis::Minutes => "peak of 5 minutes",
                    Basis::Quarter => "peak of 15 minutes",
                    Basis::Hour => "peak of an hour",
                    Basis::Hours => "peak of 4 hours",
                    Basis::Usual => "usual peak",
                    Basis::Rare => "rare peak",
                    Basis::Season => "season",
                };
                write!(f, "{of} x{factor}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
