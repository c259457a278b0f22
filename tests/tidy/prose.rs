//! Rules of the text that people read: plain words, and references that lead somewhere.

use std::fs;

use super::{files, root};

/// Words of no glossary, each with the reader's own. A part of a name counts, too.
const WORDS_BANNED: [(&str, &str); 22] = [
    ("who", "name the actor"),
    ("whom", "name the actor"),
    ("whoever", "name the actor"),
    ("whatever", "name the thing"),
    ("nobody", "say what does not happen"),
    ("somebody", "name the actor"),
    ("anybody", "name the actor"),
    ("everybody", "name the actors"),
    ("look", "probe, or read"),
    ("looks", "probes, or reads"),
    ("looked", "probed, or read"),
    ("looking", "probing, or reading"),
    ("sighting", "observation"),
    ("sightings", "observations"),
    ("told", "reported"),
    ("stand", "be"),
    ("stands", "is"),
    ("stood", "was"),
    ("plays", "simulates"),
    ("ails", "fails"),
    ("hand", "in flight"),
    ("hands", "in flight"),
];

/// Where a banned word is the right one: a look-up, a figure made by hand, and the account `nobody`.
const PHRASES_ALLOWED: [&str; 12] = [
    "look up",
    "looks up",
    "looked up",
    "looking up",
    "look-up",
    "looked-up",
    "looks like",
    "by hand",
    "by_hand",
    "`nobody`",
    "\"nobody\"",
    "=nobody",
];

/// Files that quote the words, or hold what others wrote.
const NOT_PROSE: [&str; 6] =
    ["tests/tidy/prose.rs", "tests/fixtures/", "sqlx-data.json", "Cargo.lock", "LICENSE", "assets/uplot"];

#[test]
fn the_text_uses_plain_words() {
    let complaints: Vec<String> =
        prose().iter().flat_map(|(path, text)| word_complaints(path, text)).collect();
    assert!(complaints.is_empty(), "{} words:\n{}", complaints.len(), complaints.join("\n"));
    assert_eq!(word_complaints("a.md", "The run stands; nobody looked.\n").len(), 3);
    assert_eq!(word_complaints("a.rs", "fn a_run_stands_once() {}\n").len(), 1);
    assert_eq!(
        word_complaints("a.rs", "// look up a run; a lookup; it looks like one; a handler\n"),
        [""; 0]
    );
}

/// The pages with numbered sections.
const PAGES: [&str; 2] = ["platform.md", "design.md"];

#[test]
fn every_section_that_is_cited_exists() {
    let pages = PAGES.map(|page| fs::read_to_string(root().join("docs").join(page)).unwrap());
    let complaints: Vec<String> =
        prose().iter().flat_map(|(path, text)| section_complaints(path, text, &pages)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let pages = ["## 1. One\n### 1.2 Two\n| 9.3 | three |\n".to_owned(), String::new()];
    for (text, faults) in [
        ("// platform.md §1, §1.2 and platform.md §9.3.\n", 0),
        ("// platform.md §1.3\n", 1),
        ("// design.md §1\n", 1),
        ("// contract §1\n", 1),
    ] {
        assert_eq!(section_complaints("src/a.rs", text, &pages).len(), faults, "{text}");
    }
    assert_eq!(section_complaints("docs/platform.md", "as in §1.2, but not in §4\n", &pages).len(), 1);
}

fn prose() -> Vec<(String, String)> {
    let all = files(&root()).into_iter().filter_map(|(path, text)| Some((path, text?)));
    all.filter(|(path, _)| !NOT_PROSE.iter().any(|other| path.starts_with(other))).collect()
}

fn word_complaints(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut plain = line.to_lowercase();
        for phrase in PHRASES_ALLOWED {
            plain = plain.replace(phrase, "");
        }
        let words = plain.split(|c: char| !c.is_alphabetic());
        for (word, instead) in
            words.filter_map(|word| WORDS_BANNED.iter().find(|(banned, _)| *banned == word))
        {
            complaints.push(format!("{path}:{number}: `{word}`: {instead}: {}", line.trim()));
        }
    }
    complaints
}

/// A number after `§` is a section of the page that was named last on the line, or of the page itself.
fn section_complaints(path: &str, text: &str, pages: &[String; 2]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for (at, mark) in line.match_indices('§') {
            let digits: String =
                line[at + mark.len()..].chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            let section = digits.trim_end_matches('.');
            let named =
                PAGES.iter().enumerate().filter_map(|(index, page)| Some((line[..at].rfind(page)?, index)));
            let own = PAGES.iter().position(|page| path == format!("docs/{page}"));
            let page = named.max().map(|(_, index)| index).or(own);
            let exists = !section.is_empty() && page.is_some_and(|page| has_section(&pages[page], section));
            if !exists {
                complaints.push(format!("{path}:{number}: `§{section}` leads nowhere: {}", line.trim()));
            }
        }
    }
    complaints
}

fn has_section(page: &str, section: &str) -> bool {
    page.lines().any(|line| {
        let heading = line.strip_prefix("## ").or_else(|| line.strip_prefix("### "));
        let first = heading.or_else(|| line.strip_prefix("| ")).unwrap_or_default();
        first.split([' ', '|']).next().is_some_and(|word| word.trim_end_matches('.') == section)
    })
}
