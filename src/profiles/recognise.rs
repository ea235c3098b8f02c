//! Which known server a command line starts.
//!
//! Contract: only what is certain counts. A program is known by its name, also with a version at its
//! end, behind programs that execute another one, and behind interpreters. An option that is not known
//! here ends the search, because its value could be taken for the program. A name that any program may
//! have counts only for one that is installed.

use super::command::{script, words_of};
use super::hints::is_shell;
use super::interpreter::{is_interpreter, module, unversioned, words_of_option};
use super::known;
use super::launcher::program_at;
use super::profile::{Profile, Recognise, matches};
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// A known server in a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its profile.
    pub profile: &'static Profile,
    /// Where arguments are added to the command line; None: within the script of a shell, which is
    /// left as it is.
    pub at: Option<usize>,
    /// Which of the [words behind](words_behind) the shell is the program.
    pub program: usize,
}

/// The known server that this command line starts, if it is one.
pub fn find(command: &[OsString]) -> Option<Found> {
    let found = find_words(&words_behind(command))?;
    match script(command) {
        Some(_) => Some(Found { at: None, ..found }),
        None => Some(found),
    }
}

/// Where the arguments of a program begin that is not recognised: behind its name. None behind an
/// interpreter or a shell, where they would be arguments of that.
pub fn arguments_of(command: &[OsString]) -> Option<usize> {
    let words = words(command);
    let at = program_at(&words)?;
    let program = file_name(&words[at]);
    let is_other = is_shell(OsStr::new(program)) || is_interpreter(program);
    (!is_other).then_some(at + 1)
}

/// The arguments of the server, which begin at `at` of the command line; in the script of a shell, those
/// of its command.
pub fn arguments(command: &[OsString], at: Option<usize>) -> Vec<String> {
    let words = words_behind(command);
    let in_script = || {
        script(command)?;
        let known = find_words(&words).and_then(|found| found.at);
        known.or_else(|| program_at(&words).map(|program| program + 1))
    };
    let at = at.or_else(in_script).unwrap_or_default();
    words.into_iter().skip(at).collect()
}

/// The words of the command that the script of a shell executes; of another command line its own.
pub fn words_behind(command: &[OsString]) -> Vec<String> {
    match script(command) {
        Some((_, text)) => words_of(text),
        None => words(command),
    }
}

/// Where the program stands that the command line executes, behind those that only execute it.
pub fn program_of(command: &[OsString]) -> Option<usize> {
    program_at(&words(command))
}

/// Whether it is a shell.
pub fn starts_shell(command: &[OsString]) -> bool {
    program_of(command).is_some_and(|at| is_shell(&command[at]))
}

fn words(command: &[OsString]) -> Vec<String> {
    command.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

fn find_words(words: &[String]) -> Option<Found> {
    let at = program_at(words)?;
    let program = file_name(&words[at]);
    let rest = &words[at + 1..];
    // What an interpreter is told to run comes first: `node --watch` is known by its own words.
    let by_words = by_program(&words[at], rest, true).or_else(|| behind_interpreter(program, rest));
    let (profile, used) = by_words.or_else(|| by_program(&words[at], rest, false))?;
    let arguments = at + 1 + used;
    let is_other = words[arguments.min(words.len())..]
        .iter()
        .any(|word| profile.recognise.never.iter().any(|never| matches(never, word)));
    let lacks = profile.recognise.needs.iter().any(|need| !rest.iter().any(|word| word == need));
    (!is_other && !lacks).then_some(Found {
        profile,
        at: Some(arguments),
        program: arguments - 1 - first(profile, used),
    })
}

/// The number of words behind the program that are no arguments but part of its name.
fn first(profile: &Profile, used: usize) -> usize {
    profile.recognise.first.len().min(used)
}

/// By the name of the program; `with_words`: only profiles that ask for certain words behind it. Also
/// how many words after it belong to its name.
fn by_program(word: &str, rest: &[String], with_words: bool) -> Option<(&'static Profile, usize)> {
    let program = file_name(word);
    let is_found = !word.contains('/') || is_installed(word);
    let is_it = |profile: &&Profile| {
        let is = &profile.recognise;
        is.first.is_empty() != with_words
            && is.programs.iter().any(|pattern| is_name(pattern, program))
            && (is_found || !is.generic)
            && begins(rest, is)
    };
    known::all().iter().find(is_it).map(|profile| (profile, profile.recognise.first.len()))
}

/// What an interpreter runs: a module, a script or a jar.
fn behind_interpreter(program: &str, rest: &[String]) -> Option<(&'static Profile, usize)> {
    let plain = unversioned(program);
    if !is_interpreter(program) {
        return None;
    }
    let is_python = matches!(plain, "python" | "pypy");
    let mut at = 0;
    while let Some(word) = rest.get(at).filter(|word| word.starts_with('-') && word.len() > 1) {
        match module(word).filter(|_| is_python) {
            Some("") => return by_module(rest.get(at + 1)?, &rest[at + 2..], at + 2),
            Some(module) => return by_module(module, &rest[at + 1..], at + 1),
            None => {}
        }
        match (plain, word.as_str()) {
            // A program in the next word, and what follows are its arguments.
            ("python" | "pypy", "-c") | ("ruby" | "perl", "-e") | ("php", "-r") => return None,
            ("node" | "nodejs", "-e" | "--eval" | "-p" | "--print") => return None,
            ("java", "-jar") => {
                let jar = file_name(rest.get(at + 1)?);
                let is_it = |profile: &&Profile| profile.recognise.jars.iter().any(|it| is_like(it, jar));
                return known::all().iter().find(is_it).map(|profile| (profile, at + 2));
            }
            _ => at += words_of_option(plain, word)?,
        }
    }
    // A script without a directory is one of the working directory.
    let is_found = is_installed(rest.get(at)?);
    let script = file_name(rest.get(at)?);
    let after = &rest[at + 1..];
    let is_it = |profile: &&Profile| {
        let is = &profile.recognise;
        is.scripts.iter().any(|it| is_name(it, script)) && (is_found || !is.generic) && begins(after, is)
    };
    known::all().iter().find(is_it).map(|profile| (profile, at + 1 + profile.recognise.first.len()))
}

fn by_module(module: &str, after: &[String], used: usize) -> Option<(&'static Profile, usize)> {
    let is_it =
        |profile: &&Profile| profile.recognise.modules.contains(&module) && begins(after, &profile.recognise);
    known::all().iter().find(is_it).map(|profile| (profile, used + profile.recognise.first.len()))
}

/// Whether the word at `program` is a module of python, and no file.
pub fn is_module(command: &[OsString], program: usize) -> bool {
    let option = |at: usize| command.get(at).and_then(|word| word.to_str()).and_then(module);
    option(program).is_some() || program.checked_sub(1).and_then(option) == Some("")
}

/// Whether these arguments begin with the words that have to follow.
fn begins(arguments: &[String], is: &Recognise) -> bool {
    let is_one = |(word, either): (&String, &&str)| either.split('|').any(|one| one == word);
    arguments.len() >= is.first.len() && arguments.iter().zip(is.first).all(is_one)
}

/// Whether this path is one where programs are installed. A program elsewhere that has the name of a
/// server may be somebody's own.
fn is_installed(path: &str) -> bool {
    const SYSTEM: [&str; 4] = ["/bin/", "/sbin/", "/usr/", "/opt/"];
    // Images have their own programs there.
    let is_source = path.starts_with("/usr/src/");
    SYSTEM.iter().any(|directory| path.starts_with(directory)) && !is_source
        || path.split('/').any(|it| it == "node_modules")
}

/// Whether this is the program that the pattern names. The version at its end does not count, also
/// where the pattern has none.
fn is_name(pattern: &str, program: &str) -> bool {
    let unversioned = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    pattern == program || (!unversioned.is_empty() && pattern.trim_end_matches('*') == unversioned)
}

/// Whether a file name is the pattern, in which `*` stands for any text in one place.
fn is_like(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
        None => pattern == name,
    }
}

fn file_name(word: &str) -> &str {
    Path::new(word).file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(line: &str) -> Vec<OsString> {
        line.split(' ').map(Into::into).collect()
    }

    #[test]
    fn a_server_is_known_by_its_name_wherever_it_is_certain() {
        for (line, name, at) in [
            ("nginx -c n.conf", "nginx", 1),
            ("/usr/sbin/nginx", "nginx", 1),
            ("env A=b C= nginx", "nginx", 4),
            ("env -u A nginx", "nginx", 4),
            ("php-fpm8.2 -y p", "php-fpm", 1),
            ("/usr/sbin/php-fpm", "php-fpm", 1),
            ("python3 -m http.server 8000", "http.server", 3),
            ("python3.11 -u -m gunicorn wsgi", "gunicorn", 4),
            ("/venv/bin/gunicorn wsgi", "gunicorn", 1),
            ("/venv/bin/python /venv/bin/gunicorn wsgi", "gunicorn", 2),
            ("uv run gunicorn wsgi", "gunicorn", 3),
            ("poetry run uvicorn a:b", "uvicorn", 3),
            ("bundle exec puma -C p.rb", "puma", 3),
            ("npx --yes vite", "vite", 3),
            ("node node_modules/vite/bin/vite.js", "vite", 2),
            ("node --watch server.js", "node-watch", 2),
            ("tini -- redis-server", "redis-server", 3),
            ("docker-entrypoint.sh postgres", "postgres", 2),
            ("docker-php-entrypoint php-fpm", "php-fpm", 2),
            ("gosu redis redis-server", "redis-server", 3),
            ("nice -n 10 unbound", "unbound", 4),
            ("java -Xmx1g -jar /opt/jenkins-2.4.war", "jenkins", 4),
            ("php -S 127.0.0.1:80", "php", 2),
            ("php8.2 -S 127.0.0.1:80", "php", 2),
            ("python manage.py runserver", "django", 3),
            ("./manage.py runserver", "django", 2),
            ("php artisan serve", "artisan", 3),
            ("flask --app a run", "flask", 1),
            ("python3 -mhttp.server 8000", "http.server", 2),
            ("python3 -um gunicorn wsgi", "gunicorn", 3),
            ("pypy3 -Bmuvicorn a:b", "uvicorn", 2),
            ("bundle exec --keep-file-descriptors puma", "puma", 4),
            ("bundle exec --gemfile=Gemfile puma", "puma", 4),
            ("dumb-init --single-child nginx", "nginx", 3),
            ("rails s -p 3000", "rails", 2),
            ("bin/rails server", "rails", 2),
            ("ruby bin/rails s", "rails", 3),
            ("runuser -u nobody -- nginx", "nginx", 5),
            ("runuser --user=nobody nginx", "nginx", 3),
            ("chpst -u www -o 1024 nginx", "nginx", 6),
            ("chpst -uwww -P nginx", "nginx", 4),
            ("setuidgid www nginx", "nginx", 3),
            ("s6-setuidgid www nginx", "nginx", 3),
            ("setpriv --reuid=33 --regid 33 --clear-groups nginx", "nginx", 6),
            ("setsid --ctty --wait nginx", "nginx", 4),
            ("serve -l 8000", "serve", 1),
            ("npx serve", "serve", 2),
            ("./node_modules/.bin/serve", "serve", 1),
            ("node node_modules/.bin/serve", "serve", 2),
            ("/usr/local/bin/webhook", "webhook", 1),
            ("/usr/sbin/named -g", "named", 1),
            ("thin start", "thin", 2),
            ("ruby /usr/bin/thin start", "thin", 3),
            ("./prometheus", "prometheus", 1),
            ("perl -T /usr/bin/starman a.psgi", "starman", 3),
            ("node --inspect=9229 --no-warnings node_modules/vite/bin/vite.js", "vite", 4),
            ("java --add-opens java.base/java.lang=ALL-UNNAMED -ea -jar jenkins.war", "jenkins", 6),
            ("ruby -w bin/puma -C p.rb", "puma", 3),
            ("ruby -rbundler/setup -W0 bin/puma", "puma", 4),
            ("perl -Mlocal::lib=l -wT /usr/bin/starman a.psgi", "starman", 4),
            ("php -d a=b artisan serve", "artisan", 5),
            ("python3 -OO -X dev /venv/bin/gunicorn wsgi", "gunicorn", 5),
        ] {
            let found = find(&line_of(line)).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((found.profile.name, found.at), (name, Some(at)), "{line}");
        }
    }

    #[test]
    fn what_is_not_certain_is_no_server() {
        for line in [
            "./server",
            "nginx -t",
            "nginx -s reload",
            "php artisan queue:work",
            "php -r echo",
            "python3 manage.py migrate",
            "python3 nginx.py",
            "npm start",
            "npm run nginx",
            "cat nginx",
            "java -jar app.jar",
            "flask --app a init-jobs",
            "node server.js",
            "node ./nginx",
            "perl nginx",
            "ruby redis-server",
            "ruby -wr X /usr/bin/puma",
            "ruby -c /usr/bin/puma",
            "perl -c /usr/bin/starman",
            "python3 -Wc nginx",
            "php -r'$a=1;' artisan serve",
            "/usr/src/app/serve",
            "node --title nginx server.js",
            "node --watch-path node_modules/.bin/vite server.js",
            "node --title node_modules/.bin/vite server.js",
            "nginx -tc x",
            "nginx -qt",
            "nginx -sreload",
            "deno serve main.ts",
            "haproxy -cf h.cfg",
            "env",
            "env -S nginx",
            "./serve",
            "/srv/app/named -c n.conf",
            "../webhook",
            "bin/thin start",
            "node serve",
            "python3 ./http-server",
            "tini -- ./smtpd",
            "env A=b /home/me/httpd",
            "rails console",
            "rails",
            "runuser nginx",
            "runuser - nginx",
            "runuser -u nobody -c nginx",
            "setuidgid nginx",
            "chpst nginx_user",
            "python3 -c nginx",
            "python3 -m",
            "python3 -mnginx",
            "bash nginx",
            "",
        ] {
            assert_eq!(find(&line_of(line)).map(|found| found.profile.name), None, "{line}");
        }
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn the_script_of_a_shell_is_left_as_it_is() {
        let line = ["sh", "-c", "cd /srv && exec nginx -g 'pid n.pid;'"].map(OsString::from);
        let found = find(&line).unwrap();
        assert_eq!((found.profile.name, found.at), ("nginx", None));
        assert_eq!(arguments_of(&line), None);
        assert_eq!(arguments_of(&line_of("python3 main.py")), None);
        assert_eq!(arguments_of(&line_of("env A=b ./server -x")), Some(3));
    }
}
