use super::*;
use std::os::unix::fs::symlink;

fn text(text: &str) -> OsString {
    OsString::from(text)
}

#[test]
fn a_link_that_was_switched_leads_where_it_led() {
    let dir = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(dir.path()).unwrap();
    for release in ["r1", "r2"] {
        fs::create_dir(dir.join(release)).unwrap();
        fs::write(dir.join(release).join("app.py"), release).unwrap();
    }
    symlink("r1", dir.join("current")).unwrap();
    let current = dir.join("current").display().to_string();
    let texts = [
        format!("{current}/app.py"),
        "current/app.py".into(),
        format!("--config={current}/app.py"),
        format!("/nowhere:{current}:{current}/app.py"),
        "r1/app.py".into(),
        "-x".into(),
        "http://127.0.0.1:80/current".into(),
    ];
    let pinned = texts.clone().map(|it| Pinned::new(&text(&it), &dir, true));
    for (pinned, written) in pinned.iter().zip(&texts) {
        assert_eq!(pinned.as_before(&dir, false), text(written), "nothing has changed");
    }
    fs::remove_file(dir.join("current")).unwrap();
    symlink("r2", dir.join("current")).unwrap();
    let r1 = dir.join("r1").display().to_string();
    let expected = [
        format!("{r1}/app.py"),
        format!("{r1}/app.py"),
        format!("--config={r1}/app.py"),
        format!("/nowhere:{r1}:{r1}/app.py"),
        "r1/app.py".into(),
        "-x".into(),
        "http://127.0.0.1:80/current".into(),
    ];
    for (pinned, expected) in pinned.iter().zip(expected) {
        assert_eq!(pinned.as_before(&dir, false), text(&expected));
        assert!(pinned.lost(&dir).is_empty());
    }
    fs::write(dir.join("r1/app.py"), "another").unwrap();
    assert_eq!(pinned[1].lost(&dir), [dir.join("r1/app.py")]);
    fs::remove_dir_all(dir.join("r1")).unwrap();
    assert_eq!(pinned[1].as_before(&dir, false), text(&format!("{r1}/app.py")), "r2 is not what it was");
}

/// A virtual environment, whose python is that of the machine; a binary of many names; words.
#[test]
fn names_stay_and_words_are_no_paths() {
    let dir = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(dir.path()).unwrap();
    fs::write(dir.join("machine"), "").unwrap();
    for release in ["r1", "r2"] {
        fs::create_dir(dir.join(release)).unwrap();
        fs::create_dir(dir.join(release).join("lib")).unwrap();
        symlink("../machine", dir.join(release).join("python")).unwrap();
    }
    symlink("r1", dir.join("current")).unwrap();
    symlink("current", dir.join("app")).unwrap();
    fs::write(dir.join("r1/__main__.py"), "").unwrap();
    let python = Pinned::new(OsStr::new("current/python"), &dir, true);
    let [word, flag] = ["app", "-Icurrent/lib"].map(|it| Pinned::new(OsStr::new(it), &dir, true));
    fs::remove_file(dir.join("current")).unwrap();
    symlink("r2", dir.join("current")).unwrap();
    let r1 = dir.join("r1").display().to_string();
    for name in [true, false] {
        assert_eq!(python.as_before(&dir, name), text(&format!("{r1}/python")));
    }
    assert_eq!(word.as_before(&dir, false), text("app"));
    assert_eq!(word.lost(&dir), [dir.join("app")], "as a module it would be another");
    assert_eq!(flag.as_before(&dir, false), text(&format!("-I{r1}/lib")));
}

/// A link to a file, named without a directory; and one without an extension.
#[test]
fn a_file_name_with_an_extension_is_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(dir.path()).unwrap();
    for release in ["a.jar", "b.jar"] {
        fs::write(dir.join(release), release).unwrap();
    }
    for link in ["app.jar", "app"] {
        symlink("a.jar", dir.join(link)).unwrap();
    }
    let [jar, name] = ["app.jar", "app"].map(|it| Pinned::new(OsStr::new(it), &dir, true));
    for link in ["app.jar", "app"] {
        fs::remove_file(dir.join(link)).unwrap();
        symlink("b.jar", dir.join(link)).unwrap();
    }
    assert_eq!(jar.as_before(&dir, false), dir.join("a.jar"));
    assert!(jar.lost(&dir).is_empty() && name.lost(&dir).is_empty());
    assert_eq!(name.as_before(&dir, false), dir.join("a.jar"));
}

/// What may be a module, a command, an entry of a list or the value of a variable stays.
#[test]
fn an_argument_that_is_the_name_of_a_link_is_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(dir.path()).unwrap();
    for release in ["r1", "r2", "p1", "p2"] {
        fs::create_dir(dir.join(release)).unwrap();
        fs::write(dir.join(format!("{release}.bin")), release).unwrap();
    }
    fs::write(dir.join("p1/__init__.py"), "").unwrap();
    fs::create_dir(dir.join("plain")).unwrap();
    let links = [("current", "r1"), ("package", "p1"), ("tool", "r1.bin")];
    for (link, to) in links {
        symlink(to, dir.join(link)).unwrap();
    }
    let (r1, tool) = (dir.join("r1").display().to_string(), dir.join("r1.bin").display().to_string());
    let at = |name: &str| vec![dir.join(name)];
    let arguments = [
        ("current", r1.clone(), vec![]),
        ("-Icurrent", format!("-I{r1}"), vec![]),
        ("--dir=current", format!("--dir={r1}"), vec![]),
        ("tool", tool, vec![]),
        ("exec ruby -I current -e x", format!("exec ruby -I {r1} -e x"), vec![]),
        ("exec php -tcurrent --dir=current", format!("exec php -t{r1} --dir={r1}"), vec![]),
        ("plain", "plain".into(), vec![]),
        ("currents", "currents".into(), vec![]),
        ("package", "package".into(), at("package")),
        ("--app=package", "--app=package".into(), at("package")),
        ("current:app", "current:app".into(), at("current")),
        ("exec tool --serve", "exec tool --serve".into(), at("tool")),
        ("cd current && exec ruby app.rb", "cd current && exec ruby app.rb".into(), at("current")),
    ];
    let pinned = arguments.each_ref().map(|(it, ..)| Pinned::new(&text(it), &dir, true));
    let variable = Pinned::new(OsStr::new("current"), &dir, false);
    for (pinned, (written, ..)) in pinned.iter().zip(&arguments) {
        assert_eq!((pinned.as_before(&dir, false), pinned.lost(&dir)), (text(written), vec![]));
    }
    for (link, to) in links {
        fs::remove_file(dir.join(link)).unwrap();
        symlink(to.replace('1', "2"), dir.join(link)).unwrap();
    }
    for (pinned, (written, before, lost)) in pinned.iter().zip(&arguments) {
        assert_eq!(pinned.as_before(&dir, false), text(before), "{written}");
        assert_eq!(pinned.lost(&dir), *lost, "{written}");
    }
    assert_eq!((variable.as_before(&dir, false), variable.lost(&dir)), (text("current"), at("current")));
}

#[test]
fn paths_in_a_script_lead_where_they_led_or_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(dir.path()).unwrap();
    for release in ["r1", "r 2"] {
        fs::create_dir(dir.join(release)).unwrap();
        fs::write(dir.join(release).join("app.py"), release).unwrap();
    }
    let switch = |to: &str| {
        let _ = fs::remove_file(dir.join("current"));
        symlink(to, dir.join("current")).unwrap();
    };
    let (at, r1) = (dir.display().to_string(), dir.join("r1").display().to_string());
    let scripts = [
        format!("exec python3 '{at}/current/app.py' --config={at}/current:x"),
        "exec python3 current/app.py".into(),
        "cd current && exec python3 ./app.py".into(),
        "cd .; exec python3 current/app.py".into(),
    ];
    switch("r1");
    let pinned = scripts.clone().map(|it| Pinned::new(&text(&it), &dir, true));
    for (pinned, written) in pinned.iter().zip(&scripts) {
        assert_eq!((pinned.as_before(&dir, false), pinned.lost(&dir)), (text(written), vec![]));
    }
    switch("r 2");
    let expected = [
        (format!("exec python3 '{r1}/app.py' --config={r1}:x"), vec![]),
        (format!("exec python3 {r1}/app.py"), vec![]),
        (scripts[2].clone(), vec![dir.join("current")]),
        (scripts[3].clone(), vec![dir.join("current/app.py")]),
    ];
    for (pinned, (command, lost)) in pinned.iter().zip(expected) {
        assert_eq!((pinned.as_before(&dir, false), pinned.lost(&dir)), (text(&command), lost));
    }
    let spaced = Pinned::new(&text(&scripts[1]), &dir, true);
    switch("r1");
    assert_eq!(spaced.as_before(&dir, false), text(&scripts[1]), "it would need quotes");
    assert_eq!(spaced.lost(&dir), [dir.join("current/app.py")]);
    let blank = Pinned::new(OsStr::new("r 2/app.py"), &dir, true);
    assert!(!blank.is_script && !blank.is_empty());
}

#[test]
fn devices_are_left_alone() {
    let pinned = Pinned::new(OsStr::new("/dev/stdin"), Path::new("/"), true);
    assert!(pinned.is_empty());
    assert_eq!(pinned.as_before(Path::new("/"), false), text("/dev/stdin"));
}

#[test]
fn native_programs_are_kept_open_and_scripts_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    assert!(Program::new(&script).image().is_none());
    let sh = fs::canonicalize("/bin/sh").unwrap();
    let program = Program::new(&sh);
    assert!(program.image().is_some() && program.is_at(&sh) && !program.is_at(&script));
}
