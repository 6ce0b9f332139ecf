//! Which language a text is written in, as a guess: by its script, and for Latin and Cyrillic letters by the small words
//! that every sentence has. Looks at the beginning only.

/// A two-letter code (ISO 639-1), or `None` when the text is too short or mixed to tell.
pub fn of(text: &str) -> Option<&'static str> {
    let head = &text[..text.floor_char_boundary(HEAD)];
    by_script(head).or_else(|| by_words(head))
}

/// Letters that only one language, or one family of them, uses.
fn by_script(text: &str) -> Option<&'static str> {
    let (mut letters, mut counts) = (0_usize, [0_usize; SCRIPTS.len()]);
    for c in text.chars().filter(|c| c.is_alphabetic()) {
        letters += 1;
        if let Some(at) =
            SCRIPTS.iter().position(|(_, ranges)| ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)))
        {
            counts[at] += 1;
        }
    }
    let (at, count) = counts.iter().enumerate().max_by_key(|(_, count)| **count)?;
    // Names and code in Latin letters stand in texts of every script.
    let enough = *count >= 2 && count * 3 >= letters;
    // Japanese is written with Chinese characters too, but never without its own.
    let kana = SCRIPTS.iter().position(|(code, _)| *code == "ja").map_or(0, |ja| counts[ja]);
    match enough.then_some(SCRIPTS[at].0)? {
        "zh" if kana * 8 >= *count => Some("ja"),
        code => Some(code),
    }
}

fn by_words(text: &str) -> Option<&'static str> {
    let mut counts = [0_usize; WORDS.len()];
    let mut words = 0;
    for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
        words += 1;
        let word = word.to_lowercase();
        for (count, (_, list)) in counts.iter_mut().zip(WORDS) {
            *count += usize::from(list.contains(&word.as_str()));
        }
    }
    let best = counts.iter().copied().max().filter(|best| *best >= 2 && best * 12 >= words)?;
    let mut leaders = counts.iter().zip(WORDS).filter(|(count, _)| **count == best);
    let (_, (code, _)) = leaders.next()?;
    leaders.next().is_none().then_some(code)
}

type Script = (&'static str, &'static [(char, char)]);

const SCRIPTS: [Script; 9] = [
    ("zh", &[('\u{4e00}', '\u{9fff}'), ('\u{3400}', '\u{4dbf}')]),
    ("ja", &[('\u{3040}', '\u{30ff}')]),
    ("ko", &[('\u{ac00}', '\u{d7af}'), ('\u{1100}', '\u{11ff}')]),
    ("ar", &[('\u{0600}', '\u{06ff}')]),
    ("he", &[('\u{0590}', '\u{05ff}')]),
    ("hi", &[('\u{0900}', '\u{097f}')]),
    ("th", &[('\u{0e00}', '\u{0e7f}')]),
    ("el", &[('\u{0370}', '\u{03ff}')]),
    ("ka", &[('\u{10a0}', '\u{10ff}')]),
];

type Small = (&'static str, &'static [&'static str]);

const WORDS: [Small; 13] = [
    (
        "en",
        &[
            "the", "and", "is", "of", "to", "what", "how", "this", "that", "with", "for", "are", "please", "you",
            "write", "my", "me",
        ],
    ),
    (
        "de",
        &[
            "der", "die", "das", "und", "ist", "nicht", "ein", "eine", "wie", "mit", "für", "auf", "ich", "bitte",
            "mir", "den", "was",
        ],
    ),
    (
        "fr",
        &[
            "le", "la", "les", "et", "est", "des", "une", "pour", "dans", "que", "je", "vous", "pas", "avec", "quel",
            "quelle", "mon",
        ],
    ),
    (
        "es",
        &[
            "el", "los", "las", "y", "es", "una", "por", "para", "que", "con", "cómo", "qué", "del", "mi", "está",
            "un", "en",
        ],
    ),
    (
        "it",
        &[
            "il", "gli", "e", "è", "una", "per", "che", "con", "come", "di", "della", "sono", "mi", "non", "un",
            "scrivi", "cosa",
        ],
    ),
    (
        "pt",
        &["o", "os", "as", "e", "é", "uma", "para", "que", "com", "como", "não", "do", "da", "em", "você", "um", "meu"],
    ),
    (
        "nl",
        &[
            "de", "het", "een", "en", "is", "van", "ik", "niet", "voor", "met", "wat", "hoe", "dat", "mij", "je",
            "zijn", "op",
        ],
    ),
    (
        "pl",
        &["i", "w", "na", "się", "nie", "jest", "to", "jak", "co", "z", "dla", "czy", "mi", "mój", "proszę", "do", "o"],
    ),
    (
        "sv",
        &[
            "och", "att", "det", "är", "en", "ett", "som", "på", "för", "inte", "hur", "vad", "jag", "med", "den",
            "min", "av",
        ],
    ),
    (
        "tr",
        &[
            "ve", "bir", "bu", "için", "ne", "nasıl", "ile", "çok", "değil", "mi", "bana", "olan", "lütfen", "var",
            "daha", "gibi", "da",
        ],
    ),
    (
        "ru",
        &[
            "и",
            "в",
            "не",
            "на",
            "что",
            "как",
            "это",
            "для",
            "с",
            "по",
            "мне",
            "я",
            "пожалуйста",
            "мой",
            "он",
            "из",
            "у",
        ],
    ),
    ("uk", &["і", "в", "не", "на", "що", "як", "це", "для", "з", "по", "мені", "я", "будь", "мій", "він", "із", "та"]),
    (
        "id",
        &[
            "yang",
            "dan",
            "di",
            "ini",
            "itu",
            "untuk",
            "dengan",
            "apa",
            "bagaimana",
            "saya",
            "tidak",
            "ke",
            "dari",
            "adalah",
            "tolong",
            "buat",
            "pada",
        ],
    ),
];

const HEAD: usize = 2000;
