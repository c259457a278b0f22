//! Rules of the source tree that no compiler checks. Needs no database.
//!
//! Each rule is a function from a file's path and text to complaints, so that a test can show it a
//! good tree and a bad snippet, which proves that the rule can fail. Limits only tighten.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[path = "tidy/prose.rs"]
mod prose;

/// A module names only modules of lower rank of its own package; see ARCHITECTURE.md.
const RANKS: [(&str, u8); 14] = [
    ("domain", 0),
    ("config", 1),
    ("telemetry", 1),
    ("shutdown", 1),
    ("transport", 1),
    ("store", 2),
    ("platform", 2),
    ("workload", 2),
    ("caller", 3),
    ("scheduler", 3),
    ("worker", 4),
    ("api", 4),
    ("admin", 4),
    ("cli", 5),
];

/// The same for the lab.
const LAB: &str = "crates/lab/src/";
const LAB_RANKS: [(&str, u8); 6] =
    [("postgres", 0), ("product", 0), ("simulator", 0), ("supervisor", 0), ("bench", 1), ("cli", 2)];

/// Where code is that runs, and where tests are.
const CODE: [&str; 2] = ["src", "crates/lab/src"];
const TESTS: [&str; 3] = ["tests", "crates/testkit/src", "crates/lab/tests"];

/// The roots of all crates but the lab's library.
const WITHOUT_UNSAFE: [&str; 5] =
    ["src/lib.rs", "src/main.rs", "crates/lab/src/main.rs", "crates/testkit/src/lib.rs", "xtask/src/main.rs"];

const FILE_LINES_MAX: usize = 400;

/// Names that say nothing about what is inside.
const NAMES_BANNED: [&str; 6] = ["util", "utils", "helper", "helpers", "common", "misc"];

/// Unfinished code, tests that do not run, and tests that do not name what they expect.
const TEXTS_BANNED: [&str; 4] = ["todo!", "unimplemented!", "#[ignore", "#[should_panic"];

/// Waiting for time instead of for the thing that should happen makes tests slow and flaky.
const SLEEPS: [&str; 2] = ["thread::sleep", "time::sleep"];

/// Files of tests and testkit that may sleep all the same, each with its reason.
const SLEEPS_ALLOWED: [(&str, &str); 1] =
    [("crates/testkit/src/proxy.rs", "it simulates a network that takes time")];

/// The first also means `vars` and `var_os`.
const ENVIRONMENT: [&str; 3] = ["env::var", "env::set_var", "env::remove_var"];

/// Places outside this repository that a stranger does not have. Split so that this file passes.
const PATHS_BANNED: [&str; 2] = [concat!("/wo", "rk/"), concat!("../sha", "red")];

/// The directories that hold no source of ours.
const NOT_OURS: [&str; 3] = ["target", ".git", "node_modules"];

#[test]
fn a_module_names_only_modules_of_lower_rank() {
    expect_none(of_code(rank_complaints));
    let bad = "use crate::{domain::Claim, worker};\n";
    assert_eq!(rank_complaints("src/store/claim.rs", bad), ["src/store/claim.rs: `store` names `worker`"]);
    assert_eq!(rank_complaints("src/store.rs", "fn f() { super::platform::probe() }\n").len(), 1);
    assert_eq!(rank_complaints("src/store/claim.rs", "use super::super::api::Body;\n").len(), 1);
    assert_eq!(rank_complaints("crates/lab/src/simulator/core.rs", "use crate::bench::Bed;\n").len(), 1);
    assert_eq!(rank_complaints("crates/lab/src/bench/life.rs", "use crate::simulator::Rule;\n"), [""; 0]);
    assert_eq!(rank_complaints("src/novelty.rs", "").len(), 1, "a new module needs a rank");
    let good = "// crate::worker waits\nuse super::error::StoreError;\nuse crate::domain::Claim;\n";
    assert_eq!(rank_complaints("src/store/claim.rs", good), [""; 0]);
    let own = "mod platform;\nmod tests {\n    use super::platform;\n    use crate::store;\n}\n";
    assert_eq!(rank_complaints("src/config.rs", own), [""; 0], "tests start what they need");
}

#[test]
fn no_file_is_longer_than_the_limit() {
    expect_none(of_sources(".", length_complaints));
    assert_eq!(length_complaints("a.rs", &"\n".repeat(FILE_LINES_MAX)), [""; 0]);
    assert_eq!(length_complaints("a.rs", &"\n".repeat(FILE_LINES_MAX + 1)).len(), 1);
}

#[test]
fn a_modules_file_and_name_tell_what_is_inside() {
    expect_none(of_sources(".", name_complaints));
    assert_eq!(name_complaints("src/store/mod.rs", "").len(), 1);
    assert_eq!(name_complaints("src/store/utils.rs", "").len(), 1);
    assert_eq!(name_complaints("src/helpers/tls.rs", "").len(), 1);
    assert_eq!(name_complaints("src/store.rs", "mod common {\n}\n").len(), 1);
    assert_eq!(name_complaints("tests/it/main.rs", "mod claim;\n"), [""; 0]);
}

#[test]
fn nothing_is_left_unfinished_and_no_test_is_switched_off() {
    expect_none(of_sources(".", unfinished_complaints));
    for text in TEXTS_BANNED {
        assert_eq!(unfinished_complaints("src/api.rs", text).len(), 1, "{text}");
    }
    assert_eq!(unfinished_complaints("src/api.rs", "// a todo! in a comment is caught by review\n"), [""; 0]);
}

#[test]
fn tests_wait_for_what_should_happen_and_not_for_time_to_pass() {
    expect_none(TESTS.iter().flat_map(|dir| of_sources(dir, sleep_complaints)));
    assert_eq!(sleep_complaints("tests/it/claim.rs", "std::thread::sleep(second);").len(), 1);
    assert_eq!(sleep_complaints("tests/it/claim.rs", "tokio::time::sleep(second).await;").len(), 1);
    for (path, reason) in SLEEPS_ALLOWED {
        let text = fs::read_to_string(root().join(path)).unwrap_or_default();
        assert!(SLEEPS.iter().any(|sleep| text.contains(sleep)), "{path} no longer needs: {reason}");
    }
}

#[test]
fn the_architecture_names_every_module_at_the_top() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    expect_none(of_code(|path, _| architecture_complaints(path, &text)));
    assert_eq!(architecture_complaints("src/novelty.rs", &text).len(), 1);
    assert_eq!(architecture_complaints("src/store/claim.rs", ""), [""; 0], "only modules at the top");
}

#[test]
fn unsafe_code_stays_with_the_launcher_of_postgres() {
    expect_none(of_code(unsafe_complaints));
    for root_file in WITHOUT_UNSAFE {
        let text = fs::read_to_string(root().join(root_file)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{root_file} does not forbid unsafe code");
    }
    assert_eq!(unsafe_complaints("src/worker.rs", "unsafe { go() }").len(), 1);
    assert_eq!(unsafe_complaints("crates/lab/src/postgres/keeper.rs", "unsafe { go() }"), [""; 0]);
    assert_eq!(unsafe_complaints("src/worker.rs", "#![deny(unsafe_code)] // unsafe\n"), [""; 0]);
}

#[test]
fn only_config_reads_the_environment() {
    expect_none(of_code(environment_complaints));
    assert_eq!(environment_complaints("src/api.rs", "let x = std::env::var_os(\"X\");").len(), 1);
    assert_eq!(environment_complaints("src/config/platform.rs", "env::var(\"X\")"), [""; 0]);
    assert_eq!(environment_complaints("src/api.rs", "env!(\"CARGO_PKG_VERSION\"); env::args()"), [""; 0]);
}

#[test]
fn no_file_points_to_a_place_only_one_machine_has() {
    let all = files(&root());
    expect_none(
        all.iter().filter_map(|(path, text)| Some(path_complaints(path, text.as_deref()?))).flatten(),
    );
    for place in PATHS_BANNED {
        assert_eq!(path_complaints("README.md", &format!("see {place}style.md")).len(), 1, "{place}");
    }
    assert_eq!(path_complaints("README.md", "a framework/ of its own"), [""; 0]);
}

#[test]
fn comments_are_not_mistaken_for_code() {
    assert_eq!(code("a(); // b\n  /// c\nlet u = \"http://d\";\n"), "a(); \n  \nlet u = \"http://d\";\n");
}

fn rank_complaints(path: &str, text: &str) -> Vec<String> {
    let module = module_path(path);
    // The crate's root lists everything and main may name everything; tests start what they need.
    if ["lib", "main"].contains(&module[0].as_str()) || module.last().is_some_and(|name| name == "tests") {
        return Vec::new();
    }
    let ranks: &[(&str, u8)] = if path.starts_with(LAB) { &LAB_RANKS } else { &RANKS };
    let Some(rank) = rank_of(ranks, &module[0]) else {
        return vec![format!("{path}: give `{}` a rank in tests/tidy.rs and ARCHITECTURE.md", module[0])];
    };
    let named = modules_named(&module, &code(text));
    let wrong =
        named.iter().filter(|name| **name != module[0] && rank_of(ranks, name).is_some_and(|r| r >= rank));
    wrong.map(|name| format!("{path}: `{}` names `{name}`", module[0])).collect()
}

fn rank_of(ranks: &[(&str, u8)], module: &str) -> Option<u8> {
    ranks.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

/// `src/store/claim.rs` is `store::claim`.
fn module_path(path: &str) -> Vec<String> {
    let inner = path.strip_prefix(LAB).or_else(|| path.strip_prefix("src/")).unwrap_or(path);
    inner.strip_suffix(".rs").unwrap_or(inner).split('/').map(str::to_owned).collect()
}

/// The top-level modules a file names through `crate::` and `super::`. Inline tests do not count.
fn modules_named(module: &[String], code: &str) -> Vec<String> {
    let mut named = Vec::new();
    let code = without_inline_tests(code);
    for (at, _) in code.match_indices("crate::") {
        named.extend(names_after(&code[at + "crate::".len()..]));
    }
    let climb = "super::".repeat(module.len());
    for (at, _) in code.match_indices(&climb) {
        named.extend(names_after(&code[at + climb.len()..]));
    }
    named
}

/// Drops the lines between `mod tests {` and its closing brace, which rustfmt puts below the `mod`.
fn without_inline_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut closing: Option<String> = None;
    for line in code.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        match &closing {
            Some(brace) if line == brace => closing = None,
            Some(_) => {}
            None if line.trim() == "mod tests {" => closing = Some(format!("{indent}}}")),
            None => kept = kept + line + "\n",
        }
    }
    kept
}

/// The first name of a path, or all first names of a group in braces.
fn names_after(rest: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let (mut depth, mut names, mut start) = (0_u32, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(word(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

fn length_complaints(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let is_long = lines > FILE_LINES_MAX;
    is_long.then(|| format!("{path}: {lines} lines, at most {FILE_LINES_MAX}")).into_iter().collect()
}

fn name_complaints(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if path.ends_with("/mod.rs") {
        complaints.push(format!("{path}: put it beside its directory, as `name.rs`"));
    }
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let code = code(text);
    let inline = code.lines().filter_map(|line| line.trim().strip_prefix("mod ")?.strip_suffix(" {"));
    let banned = stem.split('/').chain(inline).filter(|name| NAMES_BANNED.contains(name));
    complaints.extend(banned.map(|name| format!("{path}: `{name}` describes nothing, name what is inside")));
    complaints
}

fn unfinished_complaints(path: &str, text: &str) -> Vec<String> {
    found(path, text, &TEXTS_BANNED, "is not for the finished tree")
}

fn sleep_complaints(path: &str, text: &str) -> Vec<String> {
    if SLEEPS_ALLOWED.iter().any(|(allowed, _)| *allowed == path) {
        return Vec::new();
    }
    found(path, text, &SLEEPS, "waits for time; wait for a signal or poll under a deadline")
}

fn architecture_complaints(path: &str, architecture: &str) -> Vec<String> {
    let module = module_path(path);
    let is_top = module.len() == 1 && !["lib", "main"].contains(&module[0].as_str());
    let is_missing = is_top && !architecture.contains(&format!("`{}`", module[0]));
    is_missing.then(|| format!("{path}: ARCHITECTURE.md does not name `{}`", module[0])).into_iter().collect()
}

fn unsafe_complaints(path: &str, text: &str) -> Vec<String> {
    let is_launcher = path.starts_with("crates/lab/src/postgres/");
    let code = code(text);
    let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
    let is_wrong = !is_launcher && words.any(|word| word == "unsafe");
    is_wrong
        .then(|| format!("{path}: unsafe code belongs below crates/lab/src/postgres"))
        .into_iter()
        .collect()
}

fn environment_complaints(path: &str, text: &str) -> Vec<String> {
    let readers = ["src/config.rs", "src/config/", "crates/lab/src/postgres/discovery.rs"];
    if readers.iter().any(|reader| path.starts_with(reader)) {
        return Vec::new();
    }
    found(path, text, &ENVIRONMENT, "is for `config` alone")
}

fn path_complaints(path: &str, text: &str) -> Vec<String> {
    let named = PATHS_BANNED.iter().filter(|place| text.contains(**place));
    named.map(|place| format!("{path}: `{place}` exists on one machine only")).collect()
}

/// A complaint for each of the words that the code of a file holds. This file has to name them.
fn found(path: &str, text: &str, words: &[&str], why: &str) -> Vec<String> {
    if path == "tests/tidy.rs" {
        return Vec::new();
    }
    let code = code(text);
    words.iter().filter(|word| code.contains(**word)).map(|word| format!("{path}: `{word}` {why}")).collect()
}

/// A text without its line comments. A `//` after a colon is part of an address.
fn code(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        let comment = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':'));
        code = code + &line[..comment.map_or(line.len(), |(at, _)| at)] + "\n";
    }
    code
}

/// The complaints of a rule about all code that runs.
fn of_code(rule: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    CODE.iter().flat_map(|dir| of_sources(dir, &rule)).collect()
}

/// The complaints of a rule about every Rust file below a directory.
fn of_sources(dir: &str, rule: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let all = files(&root().join(dir));
    let sources = all.iter().filter(|(path, _)| Path::new(path).extension().is_some_and(|end| end == "rs"));
    let texts = sources.filter_map(|(path, text)| Some((path, text.as_deref()?)));
    texts.flat_map(|(path, text)| rule(path, text)).collect()
}

/// Every file below a directory: its path from the root, and its text unless it is no text.
fn files(dir: &Path) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    collect(dir, &mut found).expect("the tree can be read");
    assert!(!found.is_empty(), "no files below `{}`", dir.display());
    found
}

fn collect(dir: &Path, found: &mut Vec<(String, Option<String>)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if NOT_OURS.iter().any(|other| name == *other) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&path, found)?;
        } else {
            // Components, because a root of `.` would stay in the path as text.
            let from_root = path.components().collect::<PathBuf>();
            let from_root = from_root.strip_prefix(root()).map_err(io::Error::other)?;
            found.push((from_root.to_string_lossy().into_owned(), fs::read_to_string(&path).ok()));
        }
    }
    Ok(())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn expect_none(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
