//! A reading: the measurements of a source at one time. Owns the form that all sources share; must not know how it was read.

use std::collections::HashMap;

use qscale_common::contract::Headroom;
use qscale_common::scrape::{FunctionScrape, Scrape};

/// The measurements of one source at one time. Every measurement carries the time at which it was taken, which may be long before it was read.
#[derive(Debug, Default)]
pub struct Reading {
    /// Measurements of which the source knows the workload, by workload, written `namespace/name`.
    pub functions: HashMap<String, FunctionScrape>,
    /// Scrapes of replicas of which the source does not know the workload, by replica, written `namespace/replica`. Another source may know it.
    pub unowned: Vec<(String, Scrape)>,
    /// Capacity of the nodes minus the desired allocations of the source's functions; absent if the source does not know its nodes.
    pub headroom: Option<Headroom>,
    /// Number of samples used.
    pub samples: u64,
    /// Number of samples that could not be decoded.
    pub malformed: u64,
}
