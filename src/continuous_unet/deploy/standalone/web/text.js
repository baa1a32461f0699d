// The tokens of a text, for models that read one.

export const PADDING = 0;
const [START, END, UNKNOWN] = [1, 2, 3]; // with the padding, the first tokens of every vocabulary
// Words are separated by spaces; a mark of punctuation of ASCII is a word of its own.
const WORDS = /[!-/:-@[-`{-~]|[^ \t\n\r\f\v\u00a0\u3000!-/:-@[-`{-~]+/gu;

/** Returns start, tokens, end and padding of a text, `length` numbers in all, as `TextEncoder.tokens` in runtime.py. */
export function tokenise(text, vocabulary, length) {
  const numbers = new Map(vocabulary.map((token, number) => [token, number]));
  const inner = (text.toLowerCase().match(WORDS) ?? []).flatMap((word) => {
    const parts = [...word, " "];
    for (;;) {
      // of all neighbours that make a token, those join first whose token was learned first
      let [best, at] = [Infinity, -1];
      for (let i = 0; i + 1 < parts.length; i++) {
        const number = numbers.get(parts[i] + parts[i + 1]) ?? Infinity;
        if (number < best) [best, at] = [number, i];
      }
      if (at < 0) return parts.map((part) => numbers.get(part) ?? UNKNOWN);
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  });
  const kept = [START, ...inner.slice(0, length - 2), END];
  return [...kept, ...Array(length - kept.length).fill(PADDING)];
}
