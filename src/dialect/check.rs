//! Checks, before anything is bound: dialects that exclude each other, and listeners that a dialect
//! cannot pass.

use super::{Dialect, Kind};

/// A listener that is not bound yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnboundListener {
    /// As the user wrote it.
    pub written: String,
    /// The kind of its socket.
    pub kind: Kind,
}

/// The dialects that a comma-separated list names, in its order, each once.
///
/// # Errors
/// A message that names the unknown dialect, or two dialects that exclude each other.
pub fn dialects(list: &str) -> Result<Vec<Dialect>, String> {
    let mut dialects = Vec::new();
    for name in list.split(',') {
        let names = || Dialect::ALL.map(Dialect::name).join(", ");
        let dialect = Dialect::by_name(name)
            .ok_or_else(|| format!("no such dialect as '{name}' (write one or more of {})", names()))?;
        if !dialects.contains(&dialect) {
            dialects.push(dialect);
        }
    }
    match dialects.iter().find(|dialect| dialect.counts_from_three()) {
        Some(other) if dialects.contains(&Dialect::Tableflip) => Err(format!(
            "tableflip has its pipes at descriptors 3 and 4, where {} has the first listener: they cannot be had together",
            other.name()
        )),
        _ => Ok(dialects),
    }
}

/// Checks that `dialects` can pass these listeners.
///
/// # Errors
/// A message that names the dialect and the listener.
pub fn listeners(dialects: &[Dialect], listeners: &[UnboundListener]) -> Result<(), String> {
    for &dialect in dialects {
        let name = dialect.name();
        if dialect.single() && listeners.len() != 1 {
            return Err(format!("{name} passes exactly one listener, and there are {}", listeners.len()));
        }
        if dialect.needs_listener() && listeners.is_empty() {
            return Err(format!("{name} passes listeners, and there are none (give one with -b)"));
        }
        for listener in listeners {
            if let Some(why) = refuses(dialect, listener) {
                return Err(format!("{name} cannot pass {}: {why}", listener.written));
            }
        }
    }
    Ok(())
}

/// Why the dialect cannot pass the listener.
fn refuses(dialect: Dialect, listener: &UnboundListener) -> Option<&'static str> {
    let written = listener.written.as_str();
    let path = matches!(listener.kind, Kind::Unix | Kind::UnixDatagram | Kind::UnixSeqpacket);
    let streams = matches!(listener.kind, Kind::Tcp | Kind::Unix | Kind::UnixSeqpacket);
    match dialect {
        Dialect::ServerStarter if path && written.contains([';', '=']) => {
            Some("the path has a ';' or '=', which separate there")
        }
        Dialect::PhpFpm if path && written.contains([',', '=']) => {
            Some("the path has a ',' or '=', which separate there")
        }
        Dialect::ServerStarter | Dialect::PhpFpm | Dialect::Ecdysis if written.starts_with('@') => {
            Some("it has no word for abstract sockets")
        }
        Dialect::Endless | Dialect::Overseer | Dialect::Goagain if listener.kind != Kind::Tcp => {
            Some("its programs listen on tcp only")
        }
        Dialect::Unicorn | Dialect::Gunicorn | Dialect::Puma | Dialect::PhpFpm | Dialect::ListenerJson
            if !streams =>
        {
            Some("its programs accept connections, and this one has none")
        }
        Dialect::Ecdysis if listener.kind == Kind::UnixDatagram => Some("it has no word for unix datagrams"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unbound(written: &str, kind: Kind) -> UnboundListener {
        UnboundListener { written: written.into(), kind }
    }

    #[test]
    fn a_list_is_read_in_order_and_each_dialect_once() {
        let read = dialects("nginx,listen-fds,nginx").unwrap();
        assert_eq!(read, [Dialect::Nginx, Dialect::ListenFds]);
        for wrong in ["", "systemd", "nginx,", "NGINX"] {
            assert!(dialects(wrong).unwrap_err().contains("no such dialect"), "{wrong}");
        }
    }

    #[test]
    fn two_that_want_descriptor_3_cannot_be_had_together() {
        for other in ["listen-fds", "endless", "overseer", "crank", "shellflip"] {
            let error = dialects(&format!("{other},tableflip")).unwrap_err();
            assert!(error.contains(other) && error.contains("together"), "{error}");
        }
        assert_eq!(dialects("tableflip,einhorn,stdin").unwrap().len(), 3);
    }

    #[test]
    fn what_a_dialect_cannot_carry_is_refused() {
        let tcp = unbound(":80", Kind::Tcp);
        let table = [
            ("stdin", vec![tcp.clone(), tcp.clone()], "exactly one listener, and there are 2"),
            ("goagain", vec![], "exactly one listener, and there are 0"),
            ("nginx", vec![], "there are none"),
            ("server-starter", vec![unbound("/run/a;b", Kind::Unix)], "';' or '='"),
            ("server-starter", vec![unbound("@a", Kind::Unix)], "abstract"),
            ("php-fpm", vec![unbound("/run/a=b", Kind::Unix)], "',' or '='"),
            ("endless", vec![unbound("/run/a", Kind::Unix)], "tcp only"),
            ("unicorn", vec![unbound("udp://:53", Kind::Udp)], "accept connections"),
            ("ecdysis", vec![unbound("/run/a", Kind::UnixDatagram)], "datagrams"),
        ];
        for (name, listeners, expected) in table {
            let error = super::listeners(&dialects(name).unwrap(), &listeners).unwrap_err();
            assert!(error.starts_with(name) && error.contains(expected), "{error}");
        }
        let dialects = dialects("nginx,einhorn,server-starter").unwrap();
        assert_eq!(super::listeners(&dialects, &[tcp, unbound("/run/a:b", Kind::Unix)]), Ok(()));
    }
}
