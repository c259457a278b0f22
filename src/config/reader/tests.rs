use secrecy::ExposeSecret;

use super::*;

fn with<T>(text: &str, read: impl FnOnce(&mut Reader<'_>) -> T) -> (T, Vec<String>) {
    let environment = Environment::from_pairs([("X", text)]);
    let mut reader = Reader::new(&environment);
    let value = read(&mut reader);
    (value, reader.faults.iter().map(ToString::to_string).collect())
}

#[test]
fn only_true_and_1_are_true() {
    for (text, expected) in [
        ("true", true),
        (" TRUE ", true),
        ("1", true),
        ("yes", false),
        ("on", false),
        ("", false),
        ("0", false),
    ] {
        assert_eq!(with(text, |reader| reader.flag("X", true)), (expected, vec![]), "{text:?}");
    }
    assert!(with("false", |reader| reader.flag("UNSET", true)).0);
    assert!(!with("true", |reader| reader.flag("UNSET", false)).0);
}

#[test]
fn a_whole_number_reads_in_every_javascript_spelling() {
    for text in ["1000", " 1e3 ", "0x3e8", "1000.0", "+1000"] {
        assert_eq!(with(text, |reader| reader.whole("X", 7, 0..=5000)), (1000, vec![]), "{text:?}");
    }
    assert_eq!(with("", |reader| reader.whole("X", 7, 0..=5000)), (0, vec![]));
    assert_eq!(with("1", |reader| reader.whole("UNSET", 7, 0..=5000)), (7, vec![]));
}

#[test]
fn a_number_out_of_bounds_says_what_is_allowed() {
    let cases = [
        ("", "is out of range: ``"),
        ("-1", "is out of range: `-1`"),
        ("5001", "is out of range: `5001`"),
        ("Infinity", "is not a whole number: `Infinity`"),
        ("1e300", "is out of range: `1e300`"),
        ("1.5", "is not a whole number: `1.5`"),
        ("ten", "is not a number: `ten`"),
    ];
    for (text, problem) in cases {
        let (_, faults) = with(text, |reader| reader.whole("X", 1000, 1..=5000));
        assert_eq!(
            faults,
            [format!("`X` {problem}\n  hint: set it to a whole number from 1 to 5000")],
            "{text:?}"
        );
    }
}

#[test]
fn an_optional_number_of_zero_is_left_out() {
    assert_eq!(with("", |reader| reader.optional_number("X")), (None, vec![]));
    assert_eq!(with("0", |reader| reader.optional_number("X")), (None, vec![]));
    assert_eq!(with("2.5", |reader| reader.optional_number("X")), (Some(2.5), vec![]));
    assert_eq!(with("-1", |reader| reader.optional_number("X")).1.len(), 1);
}

#[test]
fn an_address_is_kept_as_written_and_never_repeated_in_a_fault() {
    let (url, faults) = with("https://gateway.example/", |reader| reader.http_url("X", "set it"));
    assert_eq!((url.as_deref(), faults.len()), (Some("https://gateway.example/"), 0));
    for bad in ["ftp://hidden.example", "hidden", "https://user:hidden@host.example"] {
        let (url, faults) = with(bad, |reader| reader.http_url("X", "set it"));
        assert_eq!((url, faults.len()), (None, 1), "{bad}");
        assert!(!faults[0].contains("hidden"), "{}", faults[0]);
    }
}

#[test]
fn a_missing_and_an_empty_value_differ_in_words() {
    assert_eq!(with("", |reader| reader.secret("X", "set it")).1, ["`X` is empty\n  hint: set it"]);
    assert_eq!(with("", |reader| reader.secret("Y", "set it")).1, ["`Y` is not set\n  hint: set it"]);
}

#[test]
fn a_file_may_hold_a_secret() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("token");
    std::fs::write(&path, " tr_wgt_hidden\n").expect("a file");
    let (secret, faults) = with(&format!("file://{}", path.display()), |reader| reader.secret("X", "set it"));
    assert_eq!(secret.expect("a secret").expose_secret(), "tr_wgt_hidden");
    assert_eq!(faults.len(), 0);
    std::fs::write(&path, "\n").expect("a file");
    let (_, faults) = with(&format!("file://{}", path.display()), |reader| reader.secret("X", "set it"));
    assert!(faults[0].starts_with("`X` names an empty file"), "{faults:?}");
}

#[test]
fn an_unreadable_file_is_a_fault_without_its_path() {
    let (_, faults) = with("file:///nowhere/hidden", |reader| reader.secret("X", "set it"));
    assert!(faults[0].starts_with("`X` names a file that could not be read: entity not found"), "{faults:?}");
    assert!(!faults[0].contains("hidden"), "{faults:?}");
}

#[test]
fn no_settings_are_returned_once_a_fault_is_noted() {
    let environment = Environment::from_pairs([("X", "ten"), ("Y", "eleven")]);
    let result =
        read_all(&environment, |reader| Some((reader.whole("X", 1, 1..=2), reader.whole("Y", 1, 1..=2))));
    let errors = result.expect_err("two faults");
    assert_eq!(errors.variables(), ["X", "Y"]);
    assert!(errors.to_string().starts_with("the configuration has 2 faults:\n`X` is not a number"));
}

#[test]
fn a_debug_print_of_an_environment_shows_no_value() {
    let environment = Environment::from_pairs([("X", "hidden")]);
    assert_eq!(format!("{environment:?}"), "Environment { variables: 1, .. }");
}
