use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

fn bind(text: &str) -> Bind {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    match text.parse::<Bind>() {
        Ok(bind) => panic!("{text:?} was taken for {bind:?}"),
        Err(error @ Error::Usage(_)) => error.to_string(),
        Err(error) => panic!("{text:?}: not a usage error: {error:?}"),
    }
}

#[test]
fn every_form_of_the_contract_has_its_meaning() {
    let tcp = |host| Address::Tcp { host, port: 5001 };
    let v6 = |text: &str| Host::V6(text.parse().unwrap(), None);
    let unix = |kind, path: &str| Address::Unix { kind, path: path.into() };
    let local = Host::V4(Ipv4Addr::LOCALHOST);
    for (text, address) in [
        (":5001", tcp(Host::Any)),
        ("5001", tcp(Host::Any)),
        ("tcp:5001", tcp(Host::Any)),
        ("tcp://:5001", tcp(Host::Any)),
        ("[::]:5001", tcp(v6("::"))),
        ("127.0.0.1:5001", tcp(local.clone())),
        ("tcp:127.0.0.1:5001", tcp(local.clone())),
        ("[::1]:5001", tcp(v6("::1"))),
        ("[fe80::1%eth0]:5001", tcp(Host::V6("fe80::1".parse().unwrap(), Some("eth0".into())))),
        ("localhost:5001", tcp(Host::Name("localhost".into()))),
        ("*:5001", tcp(Host::V4(Ipv4Addr::UNSPECIFIED))),
        ("udp://127.0.0.1:5001", Address::Udp { host: local, port: 5001 }),
        ("udp:5001", Address::Udp { host: Host::Any, port: 5001 }),
        ("unix:/run/app.sock", unix(UnixKind::Stream, "/run/app.sock")),
        ("unix:///run/app.sock", unix(UnixKind::Stream, "/run/app.sock")),
        ("/run/app.sock", unix(UnixKind::Stream, "/run/app.sock")),
        ("./app.sock", unix(UnixKind::Stream, "./app.sock")),
        ("unix:app.sock", unix(UnixKind::Stream, "app.sock")),
        ("unix-dgram:/run/d", unix(UnixKind::Datagram, "/run/d")),
        ("unix-seqpacket:s", unix(UnixKind::Seqpacket, "s")),
        ("@name", Address::Abstract { kind: UnixKind::Stream, name: "name".into() }),
        ("unix-dgram:@n", Address::Abstract { kind: UnixKind::Datagram, name: "n".into() }),
        ("fd://0", Address::Fd(0)),
    ] {
        assert_eq!(bind(text).address, address, "{text}");
    }
}

#[test]
fn a_name_is_distinguished_from_options_and_paths() {
    for (text, name, rest) in [
        ("web=:5001", Some("web"), ":5001"),
        ("a.b-c_1=./x=y", Some("a.b-c_1"), "./x=y"),
        (":5001,backlog=5", None, ":5001,backlog=5"),
        ("5001,backlog=5", None, ":5001,backlog=5"),
        ("/run/a=b", None, "/run/a=b"),
        ("@a=b", None, "@a=b"),
        ("n=@a=b", Some("n"), "@a=b"),
    ] {
        assert_eq!(bind(text).name.as_deref(), name, "{text}");
        assert_eq!(Bind { name: None, ..bind(text) }.to_string(), rest, "{text}");
    }
    let longest = "n".repeat(255);
    assert_eq!(bind(&format!("{longest}=:1")).name, Some(longest));
    assert!(refused(&format!("{}=:1", "n".repeat(256))).contains("255"));
}

#[test]
fn every_option_is_read() {
    let options = bind(
        ":1,backlog=7,reuseport,v6only,nonblock,freebind,defer-accept=3,fastopen=4,rcvbuf=5,sndbuf=6,nodelay",
    )
    .options;
    let expected = Options {
        backlog: Some(7),
        reuseport: true,
        v6only: true,
        nonblock: Some(true),
        freebind: true,
        defer_accept: Some(3),
        fastopen: Some(4),
        rcvbuf: Some(5),
        sndbuf: Some(6),
        nodelay: true,
        ..Options::default()
    };
    assert_eq!(options, expected);
    let options = bind("/s,mode=0660,user=root,group=0,block").options;
    assert_eq!((options.mode, options.nonblock), (Some(0o660), Some(false)));
    assert_eq!((options.user.as_deref(), options.group.as_deref()), (Some("root"), Some("0")));
}

#[test]
fn a_bad_bind_is_a_usage_error_that_quotes_it() {
    let long = format!("/{}", "p".repeat(107));
    for text in [
        "",
        ":",
        ":99999",
        ":-1",
        ":+1",
        ": 1",
        "[::1",
        "[::1]",
        "[::1]5001",
        "[127.0.0.1]:1",
        "::1:5001",
        "unix:",
        "unix-dgram:",
        "@",
        "unix:@",
        "fd://x",
        "fd://",
        "fd://-1",
        "fd:3",
        "fd://99999999999",
        "nul\0:1",
        ":1\n",
        "host",
        "host:",
        "ho st:1",
        "127.0.0.256:1",
        "127.1:1",
        "http://x:1",
        "udp://",
        "tcp:",
        "run/app.sock",
        "/run/",
        "/run/.",
        "./..",
        "=:1",
        "n=",
        "na me=:1",
        "a=b=:1",
        &long,
        ":1,",
        ":1,,nodelay",
        ":1,colour=red",
        ":1,backlog",
        ":1,backlog=0",
        ":1,backlog=x",
        ":1,backlog=2147483648",
        ":1,backlog=+5",
        ":1,nodelay,nodelay",
        ":1,nodelay=1",
        ":1,backlog=1,backlog=2",
        ":1,block,nonblock",
        "/s,mode=0888",
        "/s,mode=1777",
        "/s,mode=",
        "/s,user=",
        "/s,group=4294967295",
        "/a,b.sock",
        ":1,mode=0660",
        ":1,user=root",
        "@n,mode=0660",
        "@n,user=root",
        "udp://:1,backlog=5",
        "unix-dgram:/s,backlog=5",
        "127.0.0.1:1,v6only",
        "*:1,v6only",
        "/s,v6only",
        "/s,nodelay",
        "/s,reuseport",
        "/s,freebind",
        "/s,fastopen=1",
        "udp://:1,nodelay",
        "udp://:1,defer-accept=1",
        "fd://3,reuseport",
        "fd://3,mode=0660",
        "fd://3,freebind",
        "fd://3,v6only",
    ] {
        let message = refused(text);
        assert!(message.contains(&format!("{text:?}")), "{message}");
        assert!(message.contains("[NAME=]ADDRESS[,OPTION]"), "{message}");
    }
    assert!(refused(&long).contains("107"));
    bind(&long[..107]);
}

#[test]
fn a_host_that_is_called_like_a_scheme_survives_the_round_trip() {
    for scheme in SCHEMES {
        let text = format!("tcp://{scheme}:1");
        assert_eq!(bind(&bind(&text).to_string()), bind(&text));
    }
}

fn host() -> impl Strategy<Value = Host> {
    prop_oneof![
        Just(Host::Any),
        any::<Ipv4Addr>().prop_map(Host::V4),
        (any::<Ipv6Addr>(), proptest::option::of("[a-z][a-z0-9.:@-]{0,14}"))
            .prop_map(|(address, zone)| Host::V6(address, zone)),
        "[a-z][a-z0-9_.-]{0,30}".prop_map(Host::Name),
        proptest::sample::select(SCHEMES.to_vec()).prop_map(|name| Host::Name(name.into())),
    ]
}

fn address() -> impl Strategy<Value = Address> {
    let kind = || proptest::sample::select(UnixKind::ALL.to_vec());
    prop_oneof![
        (host(), any::<u16>()).prop_map(|(host, port)| Address::Tcp { host, port }),
        (host(), any::<u16>()).prop_map(|(host, port)| Address::Udp { host, port }),
        (kind(), "(/|\\./|\\.\\./|)[a-z][a-zé :=@./-]{0,40}[a-z]")
            .prop_map(|(kind, path)| { Address::Unix { kind, path: path.into() } }),
        (kind(), "[^,\\pC]{1,25}").prop_map(|(kind, name)| Address::Abstract { kind, name }),
        (0..RawFd::MAX).prop_map(Address::Fd),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let number = || proptest::option::weighted(0.2, 1..i32::MAX);
    let account = || proptest::option::weighted(0.2, "[a-z][a-z=0-9]{0,8}|[0-9]{1,9}");
    let flag = || proptest::bool::weighted(0.2);
    (
        (number(), number(), number(), number(), number()),
        (flag(), flag(), flag(), flag()),
        (proptest::option::weighted(0.2, 0..=0o777u32), account(), account()),
        proptest::option::of(any::<bool>()),
    )
        .prop_map(|(numbers, flags, (mode, user, group), nonblock)| Options {
            backlog: numbers.0,
            defer_accept: numbers.1,
            fastopen: numbers.2,
            rcvbuf: numbers.3,
            sndbuf: numbers.4,
            reuseport: flags.0,
            v6only: flags.1,
            freebind: flags.2,
            nodelay: flags.3,
            nonblock,
            mode,
            user,
            group,
        })
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "\\PC*|[\\x00-\\x7f]{0,40}|([a-z0-9]{0,4}[=:,/@\\[\\]%.]{0,3}){0,6}") {
        if let Ok(bind) = text.parse::<Bind>() {
            prop_assert_eq!(bind.to_string().parse::<Bind>().unwrap(), bind);
        }
    }

    #[test]
    fn display_parses_back_to_the_same(
        name in proptest::option::of("[A-Za-z0-9_.-]{1,255}"),
        address in address(),
        options in options(),
    ) {
        prop_assume!(options.check(address.family()).is_ok());
        let bind = Bind { name, address, options };
        prop_assert_eq!(bind.to_string().parse::<Bind>().unwrap(), bind);
    }

    #[test]
    fn a_socket_address_of_std_means_the_same_here(given in any::<SocketAddr>()) {
        let text = given.to_string();
        let (host, port) = match text.parse::<Bind>().unwrap().address {
            Address::Tcp { host, port } => (host, port),
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(port, given.port());
        match (host, given) {
            (Host::V4(ip), SocketAddr::V4(given)) => prop_assert_eq!(ip, *given.ip()),
            (Host::V6(ip, _), SocketAddr::V6(given)) => prop_assert_eq!(ip, *given.ip()),
            other => panic!("{other:?}"),
        }
    }
}
