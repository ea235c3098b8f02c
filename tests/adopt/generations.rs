//! Generations that are not alike: one that dies, ones with other addresses or another
//! number of sockets than the one before.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use nix::sys::signal::Signal;

use crate::client::{Connection, Failure, Target};
use crate::driver::{LIMIT, Running};
use crate::server::server;
use crate::servers::SCENE;
use crate::wrapper::Verdict;

/// Upgrades that are undone.
const ABORTED: u32 = 20;

/// It listens on all that it should, and is gone 100 ms later, or before its soak is over on a busy
/// machine. The one that serves never notices.
#[test]
fn one_that_listens_and_dies_costs_nothing() {
    let Some(mut running) = Running::start(&SCENE, &["--soak", "4s"]) else { return };
    let mut load = running.load();
    fs::write(running.path("fate"), "die").expect("it is ours");
    for _ in 0..ABORTED {
        running.await_replies(&mut load, 1);
        running.wrapper.signal(Signal::SIGUSR2);
        let verdict = running.wrapper.await_verdict(LIMIT).unwrap_or_else(|why| panic!("{why}"));
        assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}\n{}", running.wrapper.tail());
    }
    assert_eq!(running.await_replies(&mut load, 1), 1);
    fs::remove_file(running.path("fate")).expect("it is there");
    running.wrapper.signal(Signal::SIGUSR2);
    running.await_upgraded();
    running.await_replies(&mut load, 2);
    running.lost_nothing(load);
    running.stop(|_, _| ());
}

/// One that is gone 20 ms after it has listened never serves, soak or no soak.
#[test]
fn one_that_is_soon_gone_is_refused() {
    let Some(mut running) = Running::start(&SCENE, &["--soak", "1ms"]) else { return };
    fs::write(running.path("fate"), "die soon").expect("it is ours");
    for _ in 0..ABORTED {
        running.wrapper.signal(Signal::SIGUSR2);
        let verdict = running.wrapper.await_verdict(LIMIT).unwrap_or_else(|why| panic!("{why}"));
        assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}\n{}", running.wrapper.tail());
    }
    running.stop(|_, _| ());
}

/// Each generation has its own number of SO_REUSEPORT sockets on the one address.
#[test]
fn the_number_of_sockets_changes() {
    let Some(mut running) = Running::start(&SCENE, &[]) else { return };
    let Target::Tcp(address) = running.prepared.targets[0] else { unreachable!("it is TCP") };
    let mut load = running.load();
    let mut serving = running.await_replies(&mut load, 1);
    for count in [4, 1, 5, 2, 1, 3].repeat(5) {
        fs::write(running.path("addresses"), format!("{address}*{count}")).expect("it is ours");
        running.wrapper.signal(Signal::SIGUSR2);
        running.await_upgraded();
        serving = running.await_replies(&mut load, serving + 1);
    }
    running.lost_nothing(load);
    running.stop(|_, _| ());
}

/// Addresses that are new are served from then on, and the upgrade after that steers
/// each of them.
#[test]
fn addresses_are_added() {
    let Some(mut running) = Running::start(&SCENE, &[]) else { return };
    let Target::Tcp(first) = running.prepared.targets[0] else { unreachable!("it is TCP") };
    let second = SocketAddr::new(first.ip(), 8001);
    let mut all = vec![first, second];
    all.extend(free_on_ipv6());
    let words: Vec<_> = all.iter().map(SocketAddr::to_string).collect();
    fs::write(running.path("addresses"), words.join(" ")).expect("it is ours");
    running.wrapper.signal(Signal::SIGUSR2);
    running.await_upgraded();
    running.prepared.targets = all.into_iter().map(Target::Tcp).collect();
    let mut load = running.load();
    running.upgrade_under(&mut load, 6);
    running.lost_nothing(load);
    running.stop(|_, _| ());
}

/// What does not listen where the one that serves does takes nothing over.
#[test]
fn one_that_listens_elsewhere_is_refused() {
    let Some(mut running) = Running::start(&SCENE, &["--ack-timeout", "6s"]) else { return };
    let elsewhere = listen_elsewhere(&running);
    let mut load = running.load();
    running.await_replies(&mut load, 1);
    running.wrapper.signal(Signal::SIGUSR2);
    let verdict = running.wrapper.await_verdict(LIMIT).unwrap_or_else(|why| panic!("{why}"));
    let Verdict::Refused(why) = verdict else { panic!("{verdict:?}") };
    assert!(
        why.contains("it is to listen on 127.") && why.contains(&format!(", and listens on {elsewhere}")),
        "{why}"
    );
    running.await_gone(2);
    assert_eq!(Connection::open(&Target::Tcp(elsewhere)).err(), Some(Failure::Refused));
    assert_eq!(running.await_replies(&mut load, 1), 1);
    running.lost_nothing(load);
    running.stop(|_, _| ());
}

/// Unless it is said that it shall; then nobody listens on the old address any more.
#[test]
fn an_address_is_given_up_for_another() {
    let options = ["--ack-timeout", "6s", "--on-ack-timeout", "proceed"];
    let Some(mut running) = Running::start(&SCENE, &options) else { return };
    let elsewhere = listen_elsewhere(&running);
    running.wrapper.signal(Signal::SIGUSR2);
    running.await_upgraded();
    running.await_gone(1);
    let old = std::mem::replace(&mut running.prepared.targets, vec![Target::Tcp(elsewhere)]);
    assert_eq!(Connection::open(&old[0]).err(), Some(Failure::Refused));
    let mut load = running.load();
    running.upgrade_under(&mut load, 3);
    running.lost_nothing(load);
    running.stop(|_, _| ());
}

/// Has the next generation listen on another port, which this returns.
fn listen_elsewhere(running: &Running) -> SocketAddr {
    let Target::Tcp(address) = running.prepared.targets[0] else { unreachable!("it is TCP") };
    let elsewhere = SocketAddr::new(address.ip(), address.port() + 1);
    fs::write(running.path("addresses"), elsewhere.to_string()).expect("it is ours");
    elsewhere
}

/// A port that the kernel chooses is another one each time, and no successor has to have it.
#[test]
fn a_port_that_the_kernel_chooses_holds_up_nothing() {
    let scene = server("scene, a port of its own", "python3 scene.py 127.0.0.1:8000 127.0.0.1:0");
    let Some(mut running) = Running::start(&scene, &[]) else { return };
    let mut load = running.load();
    running.upgrade_under(&mut load, 3);
    running.lost_nothing(load);
    running.stop(|_, _| ());
}

/// An address of IPv6, where the machine has it. Nobody else here connects from there.
fn free_on_ipv6() -> Option<SocketAddr> {
    TcpListener::bind("[::1]:0").ok()?.local_addr().ok()
}
