//! The file of a function. Owns its fields, defaults and ranges; does no I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::SimulatedFunction;
use crate::document::{self, DocumentError, Format};
use crate::name::{FunctionId, Name};
use crate::range::{OutOfRange, check_number, check_span};
use crate::time::Span;
use crate::units::{Allocation, Mebibytes, Millicores, Replicas};

/// A function file: the program, its protocol and its initial allocation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionSpec {
    /// Name of the function, a DNS-1123 label.
    pub name: Name,
    /// Namespace of the function; `default` by default.
    #[serde(default = "default_namespace")]
    pub namespace: Name,
    /// Program and arguments. `{port}` within an argument becomes the port on which the replica has to serve. Must be
    /// absent for a simulated function.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Settings of a simulated function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated: Option<SimulatedFunction>,
    /// Environment variable with the port; `PORT` by default (vSwarm's Python functions read `GRPC_PORT`).
    #[serde(default = "default_port_variable")]
    pub port_variable: String,
    /// Protocol on the port; `grpc` by default.
    #[serde(default)]
    pub protocol: Protocol,
    /// Path on which GET must return 200 to 399 before a replica is ready (HTTP only). Without it a replica is ready when it accepts
    /// a connection and, for gRPC, opens HTTP/2 on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Environment variables, in addition to those of the platform.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Working directory; the platform's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// Concurrent requests per replica, 0 to 100,000; 0 means no limit. 100 by default, Knative's target.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Maximum queued requests, 0 to 1,000,000; more are refused. 10,000 by default, the depth of Knative's activator.
    #[serde(default = "default_queue")]
    pub queue: u32,
    /// Timeout of a request from arrival to the last byte of its reply, including queueing, 1 ms to 1 day; 30 s by default.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// Timeout for a started replica to become ready, 10 ms to 1 h; 60 s by default.
    #[serde(default = "default_startup_timeout")]
    pub startup_timeout: Span,
    /// Time for a replica to finish its requests before it is stopped, 0 to 1 h; 30 s by default.
    #[serde(default = "default_drain_timeout")]
    pub drain_timeout: Span,
    /// Loopback port on which the gateway serves only this function, regardless of the authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<u16>,
    /// Initial allocation; a function that is replaced keeps its current one.
    #[serde(default)]
    pub allocation: InitialAllocation,
}

/// Protocol of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// gRPC over HTTP/2 without TLS.
    #[default]
    Grpc,
    /// HTTP/1.1.
    Http,
}

/// Initial allocation of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InitialAllocation {
    /// Replicas; 1 by default, 0 starts the function on its first request.
    pub replicas: Replicas,
    /// CPU limit of each replica; 500m by default.
    pub cpu_millicores: Millicores,
    /// Memory limit of each replica; 256 MiB by default.
    pub memory_mib: Mebibytes,
}

impl Default for InitialAllocation {
    fn default() -> Self {
        Self { replicas: Replicas(1), cpu_millicores: Millicores(500), memory_mib: Mebibytes(256) }
    }
}

impl From<InitialAllocation> for Allocation {
    fn from(initial: InitialAllocation) -> Allocation {
        Allocation { replicas: initial.replicas, cpu_millicores: initial.cpu_millicores, memory_mib: initial.memory_mib }
    }
}

fn default_namespace() -> Name {
    Name::new(FunctionId::DEFAULT_NAMESPACE).expect("the default namespace is a label")
}

fn default_port_variable() -> String {
    "PORT".to_owned()
}

fn default_concurrency() -> u32 {
    100
}

fn default_queue() -> u32 {
    10_000
}

fn default_timeout() -> Span {
    Span::seconds(30)
}

fn default_startup_timeout() -> Span {
    Span::seconds(60)
}

fn default_drain_timeout() -> Span {
    Span::seconds(30)
}

/// Why a function file was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidSpec {
    /// It cannot be parsed, or a field is unknown, missing or has the wrong type.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A field is outside its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

impl FunctionSpec {
    /// Identity of the function.
    #[must_use]
    pub fn id(&self) -> FunctionId {
        FunctionId::new(self.namespace.clone(), self.name.clone())
    }

    /// The simulated function `name` of the default namespace, every other field at its default.
    #[must_use]
    pub fn of_simulated(name: Name, simulated: SimulatedFunction) -> Self {
        Self {
            name,
            namespace: default_namespace(),
            command: Vec::new(),
            simulated: Some(simulated),
            port_variable: default_port_variable(),
            protocol: Protocol::default(),
            health: None,
            environment: BTreeMap::new(),
            working_directory: None,
            concurrency: default_concurrency(),
            queue: default_queue(),
            timeout: default_timeout(),
            startup_timeout: default_startup_timeout(),
            drain_timeout: default_drain_timeout(),
            listen: None,
            allocation: InitialAllocation::default(),
        }
    }

    /// The command, or a description of the simulation, for people.
    #[must_use]
    pub fn program(&self) -> String {
        self.simulated.as_ref().map_or_else(|| self.command.join(" "), ToString::to_string)
    }

    /// Parses and checks a function file.
    ///
    /// # Errors
    /// If it cannot be parsed, or a field is unknown, missing or outside its range.
    pub fn parse(text: &str, format: Format) -> Result<Self, InvalidSpec> {
        let spec: Self = document::parse(text, format)?;
        spec.validate()?;
        Ok(spec)
    }

    /// Checks every field against its range, except for the upper bounds of the allocation, which belong to the platform.
    ///
    /// # Errors
    /// Names the first field that is outside its range, its value and the range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        self.validate_command()?;
        self.validate_environment()?;
        check_number("concurrency", self.concurrency, 0, 100_000)?;
        check_number("queue", self.queue, 0, 1_000_000)?;
        check_span("timeout", self.timeout, Span::millis(1), Span::seconds(86_400))?;
        check_span("startup_timeout", self.startup_timeout, Span::millis(10), Span::seconds(3_600))?;
        check_span("drain_timeout", self.drain_timeout, Span::millis(0), Span::seconds(3_600))?;
        if self.listen == Some(0) {
            return Err(OutOfRange::new("listen", 0, "1 to 65535, or left out"));
        }
        if let Some(path) = &self.health {
            self.validate_health(path)?;
        }
        Ok(())
    }

    fn validate_command(&self) -> Result<(), OutOfRange> {
        if let Some(simulated) = &self.simulated {
            let Some(program) = self.command.first() else { return simulated.validate() };
            return Err(OutOfRange::new("command", program.escape_debug(), "left out where the function is simulated"));
        }
        match self.command.first() {
            None => return Err(OutOfRange::new("command", "[]", "a program and its arguments")),
            Some(program) if program.is_empty() => return Err(OutOfRange::new("command[0]", "\"\"", "the name or path of a program")),
            Some(_) => {}
        }
        match self.command.iter().position(|argument| argument.contains('\0')) {
            Some(index) => Err(OutOfRange::new(&format!("command[{index}]"), self.command[index].escape_debug(), "free of NUL characters")),
            None => Ok(()),
        }
    }

    fn validate_environment(&self) -> Result<(), OutOfRange> {
        let valid_key = |key: &str| !key.is_empty() && !key.contains(['=', '\0']);
        if !valid_key(&self.port_variable) {
            return Err(OutOfRange::new("port_variable", self.port_variable.escape_debug(), "the name of an environment variable"));
        }
        for (key, value) in &self.environment {
            if !valid_key(key) {
                return Err(OutOfRange::new("environment", key.escape_debug(), "names without `=` and NUL"));
            }
            if value.contains('\0') {
                return Err(OutOfRange::new(&format!("environment.{key}"), value.escape_debug(), "free of NUL characters"));
            }
        }
        match &self.working_directory {
            Some(path) if path.is_empty() || path.contains('\0') => {
                Err(OutOfRange::new("working_directory", path.escape_debug(), "a path, or left out"))
            }
            _ => Ok(()),
        }
    }

    fn validate_health(&self, path: &str) -> Result<(), OutOfRange> {
        if self.protocol == Protocol::Grpc {
            return Err(OutOfRange::new("health", path, "left out where protocol = \"grpc\" (ready is when HTTP/2 opens)"));
        }
        let printable = path.bytes().all(|byte| byte.is_ascii_graphic());
        if path.starts_with('/') && printable && !path.contains('#') {
            Ok(())
        } else {
            Err(OutOfRange::new("health", path, "a path that begins with /"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::SimulatedTrace;

    const TOML: &str = r#"
        name = "fibonacci"
        command = ["python3", "server.py", "--port={port}"]
        port_variable = "GRPC_PORT"
        environment = { Mixed_Case = "1", "with.dot" = "x" }
        timeout = "5s"
        allocation = { replicas = 2 }
    "#;

    /// The field because of which a function file with `change` is refused.
    #[track_caller]
    fn refused(change: &str) -> String {
        let text = format!("name = \"f\"\ncommand = [\"x\"]\n{change}");
        match FunctionSpec::parse(&text, Format::Toml).expect_err(change) {
            InvalidSpec::Range(OutOfRange { field, .. }) | InvalidSpec::Document(DocumentError::Field { field, .. }) => field,
            InvalidSpec::Document(DocumentError::UnknownKeys(keys)) => keys.join(", "),
            InvalidSpec::Document(DocumentError::Syntax(reason)) => panic!("{reason}"),
        }
    }

    #[test]
    fn a_function_file_needs_only_a_name_and_a_command() {
        let spec = FunctionSpec::parse("name = \"f\"\ncommand = [\"x\"]", Format::Toml).expect("valid");
        assert_eq!(spec.id().to_string(), "default/f");
        assert_eq!(Allocation::from(spec.allocation), Allocation::new(1, 500, 256));
        assert_eq!((spec.concurrency, spec.queue, spec.timeout), (100, 10_000, Span::seconds(30)));
    }

    #[test]
    fn toml_yaml_and_json_read_the_same() {
        let toml = FunctionSpec::parse(TOML, Format::Toml).expect("toml");
        assert_eq!(toml.environment.get("Mixed_Case").map(String::as_str), Some("1"));
        assert_eq!(toml.environment.get("with.dot").map(String::as_str), Some("x"));
        let json = serde_json::to_string(&toml).expect("serialises");
        assert_eq!(FunctionSpec::parse(&json, Format::Json).expect("json"), toml);
        assert_eq!(FunctionSpec::parse(&json, Format::Yaml).expect("json is yaml"), toml);
    }

    #[test]
    fn a_wrong_field_is_named_with_its_value_and_range() {
        assert_eq!(refused("timeout = \"0s\""), "timeout");
        assert_eq!(refused("concurrency = 100001"), "concurrency");
        assert_eq!(refused("health = \"/\""), "health");
        assert_eq!(refused("listen = 0"), "listen");
        assert_eq!(refused("protocol = \"smtp\""), "protocol");
        assert_eq!(refused("colour = \"red\""), "colour");
        assert_eq!(refused("allocation = { replicas = -1 }"), "allocation.replicas");
        assert_eq!(refused("allocation = { cpus = 1 }"), "allocation.cpus");
        assert_eq!(refused("port_variable = \"A=B\""), "port_variable");
    }

    #[test]
    fn a_function_file_holds_one_function() {
        let two = "name: f\ncommand: [x]\n---\nname: g\ncommand: [x]\n";
        let error = FunctionSpec::parse(two, Format::Yaml).expect_err("two").to_string();
        assert_eq!(error, "2 YAML documents, expected 1; write each into a file of its own");
        let one = FunctionSpec::parse("---\nname: f\ncommand: [x]\nenvironment:\nallocation:\n  # replicas: 1\n---\n", Format::Yaml);
        assert_eq!(one.expect("valid"), FunctionSpec::parse("name: f\ncommand: [x]", Format::Yaml).expect("valid"));
    }

    #[test]
    fn a_simulated_function_needs_no_command_and_survives_json() {
        let text = "name = \"f\"\n[simulated]\nload = \"step:1@0s,9@5s\"\nseed = 7";
        let spec = FunctionSpec::parse(text, Format::Toml).expect("valid");
        let simulated =
            SimulatedFunction { load: Some("step:1@0s,9@5s".parse().expect("a pattern")), seed: Some(7), ..SimulatedFunction::default() };
        assert_eq!(spec, FunctionSpec::of_simulated(Name::new("f").expect("valid"), simulated.clone()));
        let trace = Some(SimulatedTrace::new("folder".into(), 3));
        let spec = FunctionSpec::of_simulated(spec.name, SimulatedFunction { load: None, trace, seed: Some(u64::MAX), ..simulated });
        let json = serde_json::to_vec(&spec).expect("serialises");
        assert_eq!(serde_json::from_slice::<FunctionSpec>(&json).expect("reads"), spec);
    }

    #[test]
    fn a_wrong_simulated_field_is_named() {
        let refused = |simulated: &str| {
            let text = format!("name = \"f\"\n[simulated]\n{simulated}");
            match FunctionSpec::parse(&text, Format::Toml).expect_err(simulated) {
                InvalidSpec::Range(error) => error.field,
                InvalidSpec::Document(error) => error.to_string(),
            }
        };
        assert_eq!(refused("payload = 0.0"), "simulated.payload");
        assert_eq!(refused("crashes_per_hour = -1.0"), "simulated.crashes_per_hour");
        assert_eq!(refused("trace = { folder = \"x\", time_scale = 0.0 }"), "simulated.trace.time_scale");
        assert_eq!(refused("trace = { folder = \"x\", rate_scale = -1.0 }"), "simulated.trace.rate_scale");
        assert_eq!(refused("load = \"1\"\ntrace = { folder = \"x\" }"), "simulated.load");
        assert!(refused("nosuch = 1").contains("nosuch"));
        assert!(refused("load = \"step:x\"").contains("simulated.load"));
        let both = FunctionSpec::parse("name = \"f\"\ncommand = [\"x\"]\nsimulated = {}", Format::Toml);
        assert!(matches!(both, Err(InvalidSpec::Range(OutOfRange { field, .. })) if field == "command"));
    }

    #[test]
    fn a_refusal_has_its_reason_once() {
        let error = FunctionSpec::parse("name = \"f\"\ncommand = []", Format::Toml).expect_err("refused");
        assert!(std::error::Error::source(&error).is_none(), "{error}");
    }
}
