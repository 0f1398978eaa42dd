//! Fuzz targets: each feeds an input to public functions of a library and checks invariants of the result. A panic is a failure. The programs in
//! `targets/`, which libFuzzer steers by coverage, and the test in `tests/`, which mutates the corpora at random, run the same functions.

mod documents;
mod exposition;
mod gateway;
mod guard;
mod histories;
mod input;
mod messages;
mod models;
mod prometheus;
mod protobuf;
mod rules;
mod trees;
mod windows;
mod workload;

pub use documents::{functions, policies, profiles, suites};
pub use exposition::exposition;
pub use gateway::gateway;
pub use guard::guard;
pub use histories::histories;
pub use messages::messages;
pub use models::models;
pub use prometheus::prometheus;
pub use protobuf::protobuf;
pub use rules::rules;
pub use trees::trees;
pub use windows::windows;
pub use workload::{patterns, traces};

/// A target, and its name in `targets/` and `corpus/`.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 17] = [
    ("exposition", exposition),
    ("functions", functions),
    ("gateway", gateway),
    ("guard", guard),
    ("histories", histories),
    ("messages", messages),
    ("models", models),
    ("patterns", patterns),
    ("policies", policies),
    ("profiles", profiles),
    ("prometheus", prometheus),
    ("protobuf", protobuf),
    ("rules", rules),
    ("suites", suites),
    ("traces", traces),
    ("trees", trees),
    ("windows", windows),
];
