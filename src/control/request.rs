//! A request, as a client writes it and the server reads it.
//!
//! Contract: a request that was read is valid: its verb has every argument that it needs,
//! and none that exclude each other. What is wrong is said in a sentence for the client.

use crate::cli::ctl::Verb;
use crate::config::{signals, weight};
use serde::de::value::MapDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;
use std::ops::Not;

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// A request is at most this long, in bytes, without its newline.
pub const LONGEST_LINE: usize = 64 * 1024;

/// A request: its verb, and what holds for every verb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// The verb, and beside it the arguments that it has.
    #[serde(flatten)]
    pub verb: Verb,
    /// Whether the result is the outcome; otherwise it says that the request was accepted.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub wait: bool,
    /// Whether the client wants events of kind `progress` meanwhile.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub progress: bool,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_true(flag: &bool) -> bool {
    *flag
}

impl Request {
    /// A request of this version.
    pub fn new(verb: Verb) -> Request {
        Request { version: VERSION, wait: verb.waits(), progress: false, verb }
    }

    /// Reads a line, and checks what the types do not: the signal of a [`Verb::Signal`]
    /// is then the name of one.
    ///
    /// # Errors
    /// A sentence for the client: what is wrong, and what is known instead.
    pub fn read(line: &[u8]) -> Result<Request, String> {
        if line.trim_ascii_start().first() != Some(&b'{') {
            return Err("a request is a JSON object in one line".into());
        }
        let not_understood = |error: &str| format!("the request is not understood: {error}");
        let members: Members =
            serde_json::from_slice(line).map_err(|error| not_understood(&error.to_string()))?;
        match members.get("version") {
            // Nothing else is known of the requests of a later version.
            Some(version) if *version == VERSION => {}
            None | Some(Value::Null) => return Err(format!("version is missing (known: {VERSION})")),
            Some(Value::Number(version)) => {
                return Err(format!("version {version} is not known (known: {VERSION})"));
            }
            Some(_) => return Err(not_understood("`version` is not a number")),
        }
        // serde would take a number for the index of a verb.
        let name = match members.get("verb") {
            None => return Err(not_understood("missing field `verb`")),
            Some(Value::String(name)) => name.clone(),
            Some(_) => return Err(not_understood("`verb` is not a string")),
        };
        let known = verbs();
        if !known.contains(&name.as_str()) {
            return Err(format!("verb '{name}' is not known (known: {})", known.join(", ")));
        }
        let Members { list, invalid } = members;
        let members: MapDeserializer<'_, _, serde_json::Error> = MapDeserializer::new(list.into_iter());
        let mut request = Request::deserialize(members).map_err(|error| {
            let error = invalid.unwrap_or_else(|| error.to_string());
            match error.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
                Some(argument) => format!("'{name}' needs '{argument}'"),
                None => not_understood(&error),
            }
        })?;
        match &mut request.verb {
            Verb::Upgrade { hold: Some(_), now: true, .. } => {
                return Err("'hold' and 'now' exclude each other".into());
            }
            Verb::Upgrade { hold: Some(percent), .. } if !percent.is_empty() => {
                weight(percent).map_err(|why| format!("'hold' is {why}"))?;
            }
            Verb::Weight { percent } => {
                weight(percent).map_err(|why| format!("'percent' is {why}"))?;
            }
            Verb::Signal { signal } => {
                let known = signals::signal_by_name(signal);
                let known = known.ok_or_else(|| format!("there is no signal '{signal}'"))?;
                *signal = signals::name(known as i32);
            }
            _ => {}
        }
        Ok(request)
    }
}

/// The name of every [`Verb`], from serde: clap could list them as well, but needs more stack
/// than a client's thread has.
fn verbs() -> &'static [&'static str] {
    /// The names that serde lists in its error for an unknown name.
    #[derive(Debug, Default)]
    struct Expected(&'static [&'static str]);

    impl fmt::Display for Expected {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0.join(", "))
        }
    }

    impl std::error::Error for Expected {}

    impl Error for Expected {
        fn custom<T: fmt::Display>(_: T) -> Expected {
            Expected::default()
        }

        fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Expected {
            Expected(expected)
        }
    }

    let unknown = MapDeserializer::<_, Expected>::new([("verb", "")].into_iter());
    Verb::deserialize(unknown).err().unwrap_or_default().0
}

/// The members of a JSON object, in their order.
///
/// No argument of a verb is nested, so a nested value is not kept: an empty array or object
/// stands for it, which no argument can be. Whatever a client nests is thereby skipped without
/// recursion: serde would keep it for the verb, and the stack of a client's thread is
/// too small for a value that is nested as deep as serde_json allows.
struct Members {
    list: Vec<(String, Value)>,
    /// What is wrong with the first value that is JSON by its form alone: a number out of
    /// range, or an escape of no character. It is no error in an unknown member.
    invalid: Option<String>,
}

impl Members {
    fn get(&self, name: &str) -> Option<&Value> {
        self.list.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Members { list: Vec::new(), invalid: None };
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    let value = match value.get() {
                        nested if nested.starts_with('{') => Value::Object(serde_json::Map::new()),
                        nested if nested.starts_with('[') => Value::Array(Vec::new()),
                        scalar => serde_json::from_str(scalar).unwrap_or_else(|error| {
                            members.invalid.get_or_insert_with(|| format!("`{name}`: {error}"));
                            Value::Array(Vec::new())
                        }),
                    };
                    members.list.push((name, value));
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ctl::Waiting;
    use crate::control::protocol::line;
    use clap::Subcommand;
    use proptest::prelude::*;

    fn refused(line: &[u8]) -> String {
        Request::read(line).unwrap_err()
    }

    #[test]
    fn a_request_has_defaults_and_room_for_more() {
        let line = br#"{"verb":"upgrade","version":1,"colour":{"deep":[1,2]},"now":true}"#;
        let request = Request::read(line).unwrap();
        let verb = Verb::Upgrade { hold: None, now: true, waiting: Waiting::default() };
        assert_eq!(request, Request::new(verb));
        let odd = br#"{"version":1,"verb":"hammer","x":1e400,"y":"\ud800","workers":null}"#;
        assert_eq!(Request::read(odd).unwrap().verb, Verb::Hammer);
        let nested =
            format!(r#"{{"version":1,"verb":"hammer","x":{}{}}}"#, "[".repeat(9000), "]".repeat(9000));
        assert_eq!(Request::read(nested.as_bytes()).unwrap().verb, Verb::Hammer);
    }

    #[test]
    fn an_error_names_what_would_be_understood() {
        for (line, words) in [
            (&b"hello"[..], "a JSON object in one line"),
            (b"", "a JSON object"),
            (b"[1,\"status\"]", "a JSON object"),
            (b"{\"version\":1", "not understood: EOF"),
            (b"{\"version\":1} {}", "not understood: trailing"),
            (b"{\"verb\":\"status\"}", "version is missing (known: 1)"),
            (b"{\"version\":2,\"verb\":7}", "version 2 is not known (known: 1)"),
            (b"{\"version\":1}", "missing field `verb`"),
            (b"{\"version\":1,\"verb\":0}", "not understood: `verb` is not a string"),
            (b"{\"version\":1,\"verb\":[\"status\"]}", "not understood: `verb` is not a string"),
            (b"{\"version\":1,\"verb\":\"stop\",\"verb\":\"status\"}", "duplicate field `verb`"),
            (b"{\"version\":1,\"verb\":\"unbind\"}", "'unbind' needs 'name'"),
            (b"{\"version\":1,\"verb\":\"stop\",\"now\":{\"a\":true}}", "not understood: invalid type: map"),
            (b"{\"version\":1,\"verb\":\"stop\",\"now\":[true]}", "not understood: invalid type: sequence"),
            (b"{\"version\":1,\"verb\":\"scale\",\"workers\":1e400}", "`workers`: number out of range"),
            (
                b"{\"version\":1,\"verb\":\"stop\",\"wait\":\"\\ud800\"}",
                "`wait`: unexpected end of hex escape",
            ),
            (b"{\"version\":{},\"verb\":\"stop\"}", "not understood: `version` is not a number"),
            (b"{\"version\":1,\"verb\":\"dance\"}", "(known: status, upgrade, "),
            (b"{\"version\":1,\"verb\":\"scale\"}", "'scale' needs 'workers'"),
            (b"{\"version\":1,\"verb\":\"scale\",\"workers\":-1}", "not understood: invalid value"),
            (b"{\"version\":1,\"verb\":\"signal\",\"signal\":\"X\"}", "there is no signal 'X'"),
            (b"{\"version\":1,\"verb\":\"weight\",\"percent\":\"101\"}", "'percent' is not a percentage"),
            (b"{\"version\":1,\"verb\":\"upgrade\",\"hold\":\"x\"}", "'hold' is not a percentage"),
            (b"{\"version\":1,\"verb\":\"upgrade\",\"hold\":true,\"now\":true}", "exclude each other"),
            (b"{\"version\":1,\"verb\":\"st\0atus\"}", "not understood: control character"),
            (b"{\"version\":1,\"verb\":\"\xff\"}", "not understood: invalid unicode"),
        ] {
            let why = refused(line);
            assert!(why.contains(words), "{}: {why}", String::from_utf8_lossy(line));
        }
        let bomb = format!("{{\"version\":1,\"verb\":{}", "[".repeat(60_000));
        assert!(refused(bomb.as_bytes()).contains("not understood"));
        let bomb = format!("{{\"version\":1,\"verb\":\"status\",\"more\":{}", "{\"a\":".repeat(10_000));
        assert!(refused(bomb.as_bytes()).contains("not understood"));
    }

    #[test]
    fn every_verb_has_the_wire_format_of_the_protocol() {
        let waiting = Waiting::default;
        let verbs = [
            (Verb::Status { watch: false }, r#""status""#),
            (Verb::Upgrade { hold: None, now: false, waiting: waiting() }, r#""upgrade""#),
            (
                Verb::Upgrade { hold: Some(String::new()), now: false, waiting: waiting() },
                r#""upgrade","hold":true"#,
            ),
            (
                Verb::Upgrade { hold: Some("10%".into()), now: false, waiting: waiting() },
                r#""upgrade","hold":"10%""#,
            ),
            (Verb::Weight { percent: "0.5".into() }, r#""weight","percent":"0.5""#),
            (Verb::Commit(waiting()), r#""commit""#),
            (Verb::Rollback(waiting()), r#""rollback""#),
            (Verb::Scale { workers: 3, waiting: waiting() }, r#""scale","workers":3"#),
            (Verb::Stop { now: true, waiting: waiting() }, r#""stop","now":true"#),
            (Verb::Signal { signal: "USR1".into() }, r#""signal","signal":"USR1""#),
            (Verb::Hammer, r#""hammer""#),
            (Verb::Events, r#""events""#),
            (Verb::Reexec, r#""reexec""#),
            (Verb::Bind { bind: ":1".into() }, r#""bind","bind":":1""#),
            (Verb::Unbind { listener: "a".into() }, r#""unbind","name":"a""#),
            (Verb::Metrics, r#""metrics""#),
        ];
        let typed = Verb::augment_subcommands(clap::Command::new("ctl"));
        let typed: Vec<&str> = typed.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(super::verbs(), typed, "clap and serde have the same names");
        for name in typed {
            assert!(verbs.iter().any(|(_, line)| line.starts_with(&format!("\"{name}\""))), "{name}");
        }
        for (verb, members) in verbs {
            let request = Request::new(verb);
            let line = format!("{{\"version\":1,\"verb\":{members}}}");
            assert_eq!(line_of(&request), line);
            assert_eq!(Request::read(line.as_bytes()), Ok(request));
        }
        // Only the client knows of `--no-wait` and `--watch`: the server has `wait`.
        let commit = Request::new(Verb::Commit(Waiting { no_wait: true }));
        assert_eq!(line_of(&commit), r#"{"version":1,"verb":"commit","wait":false}"#);
        assert!(!Request::read(&line(&commit)).unwrap().wait);
        let watch = Request::new(Verb::Status { watch: true });
        assert_eq!(line_of(&watch), r#"{"version":1,"verb":"status"}"#);
    }

    #[test]
    fn a_signal_that_was_read_has_its_own_name() {
        for spelling in ["10", "sigusr1", "USR1"] {
            let line = format!(r#"{{"version":1,"verb":"signal","signal":"{spelling}"}}"#);
            let verb = Request::read(line.as_bytes()).unwrap().verb;
            assert_eq!(verb, Verb::Signal { signal: "USR1".into() });
        }
    }

    fn line_of(value: &impl Serialize) -> String {
        String::from_utf8(line(value)).unwrap().trim_end().into()
    }

    proptest! {
        #[test]
        fn no_line_is_a_surprise(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::read(&bytes);
        }

        #[test]
        fn what_is_written_is_read(wait: bool, progress: bool, workers: u32, listener: String) {
            let waiting = Waiting::default();
            for verb in [Verb::Scale { workers, waiting }, Verb::Unbind { listener }] {
                let request = Request { wait, progress, ..Request::new(verb) };
                let line = line(&request);
                prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
                prop_assert_eq!(Request::read(&line).unwrap(), request);
            }
        }
    }
}
