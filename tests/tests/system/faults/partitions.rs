//! Parts of a system are cut from each other. The system runs in a network namespace of its own, and a service in another one; two pairs of virtual interfaces lead
//! to the nats-server and to the platform, and each can be taken down.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use qscale_common::contract::{DecisionSource, Outcome};
use qscale_common::runtime::bus::Subscription;
use qscale_tests::watched::Watched;
use qscale_tests::{Program, eventually, eventually_async, first, process};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::{only_acts, outcomes};

/// A link between the two namespaces, with forwarders from a loopback address of the other one to an address of the system.
struct Link {
    /// Interface in the namespace of the system.
    interface: &'static str,
    /// Address in the other namespace.
    address: SocketAddr,
}

/// Runs `ip` with `arguments`.
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Moves the calling thread, and all threads that it starts, to a network of their own.
fn enter_own_network() {
    // SAFETY: unshare takes an integer; the thread has no socket yet.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
    ip("link set lo up");
}

impl Link {
    /// Connects network `number` of the namespace of process `pid` with the address `to`.
    async fn new(interface: &'static str, number: u8, pid: u32, to: SocketAddr) -> Self {
        let peer = format!("{interface}-far");
        ip(&format!("link add {interface} type veth peer name {peer} netns {pid}"));
        ip(&format!("addr add 10.71.{number}.1/24 dev {interface}"));
        ip(&format!("link set {interface} up"));
        for command in ["link set lo up".into(), format!("addr add 10.71.{number}.2/24 dev {peer}"), format!("link set {peer} up")] {
            let entered = Command::new("nsenter").args(["-t", &pid.to_string(), "-n", "ip"]).args(command.split(' ')).status();
            assert!(entered.is_ok_and(|status| status.success()), "ip {command} in the other namespace");
        }
        let listener = TcpListener::bind((format!("10.71.{number}.1"), 0)).await.expect("a free port");
        let near = listener.local_addr().expect("bound");
        tokio::spawn(forward(listener, to));
        let (sender, address) = oneshot::channel();
        std::thread::spawn(move || forward_from(pid, near, sender));
        Self { interface, address: address.await.expect("a forwarder in the other namespace") }
    }

    fn cut(&self) {
        ip(&format!("link set {} down", self.interface));
    }

    fn heal(&self) {
        ip(&format!("link set {} up", self.interface));
    }
}

/// Forwards connections of `listener` to the address `to`.
async fn forward(listener: TcpListener, to: SocketAddr) {
    while let Ok((mut from, _)) = listener.accept().await {
        tokio::spawn(async move {
            if let Ok(mut to) = TcpStream::connect(to).await {
                // Ends with either side.
                let _ended = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

/// Forwards connections to a loopback address in the network of process `pid`, which it reports, to the address `to` on a thread of its own. The platform
/// accepts requests for a loopback address only.
fn forward_from(pid: u32, to: SocketAddr, report: oneshot::Sender<SocketAddr>) {
    let network = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("the network of a process");
    // SAFETY: setns takes integers; the thread has no socket yet.
    assert_eq!(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        // Fails if the test has ended.
        let _ended = report.send(listener.local_addr().expect("bound"));
        forward(listener, to).await;
    });
}

/// A process that keeps a network namespace without anything else.
fn far_network(watched: &Watched) -> Program {
    let mut command = Command::new("sleep");
    command.arg("3600");
    // SAFETY: between fork and exec the closure makes a system call only.
    unsafe {
        command.pre_exec(|| if libc::unshare(libc::CLONE_NEWNET) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) });
    }
    let program = Program::spawn(command, &watched.system.state().join("logs/far.log"));
    let own = std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
    eventually("another network", || std::fs::read_link(format!("/proc/{}/ns/net", program.id())).ok().filter(|other| *other != own));
    program
}

/// Starts `service` with its configuration of the system in the namespace of `far`.
fn start_far(watched: &Watched, far: &Program, service: &str, name: &str, settings: &[String]) -> Program {
    let state = watched.system.state();
    let mut command = Command::new("nsenter");
    command.args(["-t", &far.id().to_string(), "-n"]).arg(process::binary(service));
    command.arg("--config").arg(state.join("config").join(format!("{name}.json")));
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    Program::spawn(command, &state.join("logs").join(format!("far-{service}.log")))
}

fn address(watched: &Watched, of: &str) -> SocketAddr {
    let text = watched.system.addresses()[of].as_str().expect("an address").to_owned();
    text.trim_start_matches("nats://").parse().expect("an address")
}

/// Runs `test` in a network of its own, if this is possible here.
fn in_own_network<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let tools = ["ip", "nsenter"].iter().all(|tool| Command::new(tool).arg("-V").output().is_ok());
    if !super::is_root() || !tools {
        eprintln!("skipped: networks need root, ip and nsenter");
        return;
    }
    let thread = std::thread::spawn(move || {
        enter_own_network();
        // Its threads are children of this one, so they are in its network.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn an_actuator_that_is_cut_from_the_bus_is_replaced_and_its_token_refused() {
    in_own_network(async || {
        let mut watched = Watched::new().await;
        watched.loop_turns(3, "the start").await;
        let far = far_network(&watched);
        let bus = Link::new("bus", 1, far.id(), address(&watched, "nats")).await;
        let platform = Link::new("platform", 2, far.id(), address(&watched, "platform")).await;
        let settings = [
            format!("nats.url=nats://{}", bus.address),
            format!("platform.address={}", platform.address),
            "health=127.0.0.1:0".into(),
            "instance=standby".into(),
        ];
        let _standby = start_far(&watched, &far, "qscale-actuator", "actuator", &settings);
        let mut outcomes = outcomes(&watched).await;
        // The actuator behind the link becomes the leader.
        watched.system.signal("qscale-actuator", libc::SIGSTOP);
        only_acts(&mut outcomes, &watched, true, 3).await;
        watched.system.signal("qscale-actuator", libc::SIGCONT);
        // It loses the bus, but still reaches the platform: both halves have an actuator.
        bus.cut();
        only_acts(&mut outcomes, &watched, false, 5).await;
        bus.heal();
        only_acts(&mut outcomes, &watched, false, 5).await;
        // It loses the platform, too, and the other one ends: it leads again once it is back.
        platform.cut();
        watched.system.signal("qscale-actuator", libc::SIGSTOP);
        platform.heal();
        only_acts(&mut outcomes, &watched, true, 3).await;
        watched.system.signal("qscale-actuator", libc::SIGCONT);
        watched.stop();
    });
}

/// Waits for a decision with `source`.
async fn decided_by(outcomes: &mut Subscription<Outcome>, source: DecisionSource, agent: Option<&str>, watched: &Watched) {
    let wanted = |outcome: &Outcome| outcome.source == source && agent.is_none_or(|agent| outcome.agent.as_str() == agent);
    assert!(first(outcomes, wanted).await.is_some(), "no decision of {source:?}:\n{}", watched.system.tail());
}

#[test]
fn the_fallback_decides_for_an_agent_that_is_cut_off() {
    in_own_network(async || {
        let mut watched = Watched::new().await;
        watched.loop_turns(3, "the start").await;
        assert!(watched.system.qscale(&["agent", "add", "far"]).status.success());
        let far = far_network(&watched);
        let bus = Link::new("bus", 1, far.id(), address(&watched, "nats")).await;
        let password = watched.system.state().join("credentials/agent-far");
        let settings = [
            "agent=far".into(),
            "policy=threshold-both".into(),
            format!("nats.url=nats://{}", bus.address),
            "nats.user=agent-far".into(),
            format!("nats.password_file={}", password.display()),
            "health=127.0.0.1:0".into(),
        ];
        let _agent = start_far(&watched, &far, "qscale-agent", "agent-threshold-both", &settings);
        let mut outcomes = outcomes(&watched).await;
        assert!(watched.system.qscale(&["policy", "set", "fibonacci", "agent=far"]).status.success());
        decided_by(&mut outcomes, DecisionSource::Agent, Some("far"), &watched).await;
        bus.cut();
        eventually_async("the fallback", async || {
            std::fs::read_to_string(watched.system.state().join("logs/actuator.log"))
                .unwrap_or_default()
                .contains("the fallback decides")
                .then_some(())
        })
        .await;
        bus.heal();
        decided_by(&mut outcomes, DecisionSource::Agent, Some("far"), &watched).await;
        // Actions that waited are too old: only those for present States are obeyed.
        watched.loop_turns(4, "the agent is back").await;
        watched.stop();
    });
}
