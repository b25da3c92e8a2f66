// The decisions of clipsift, over the scores and pairs that stand in this page. Pure: no page, no clock. The rules are those of
// src/dedup/decide.rs: thresholds first, in their order; then the survivors in order of preference, one walk over all.
const clipsift = (() => {
  "use strict";

  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;

  // The data as it stands in the page -> arrays ready for `count`.
  function unpack(data) {
    const a = new Uint32Array(bytes(data.a)), b = new Uint32Array(bytes(data.b));
    const stored = new Float64Array(bytes(data.cosine));
    const { nodes, identical } = data;

    // Identical rows are one class, called by its lowest number.
    const parent = Uint32Array.from({ length: nodes }, (_, i) => i);
    const find = row => {
      while (parent[row] !== row) row = parent[row] = parent[parent[row]];
      return row;
    };
    for (let i = 0; i < identical; i++) {
      const x = find(a[i]), y = find(b[i]);
      parent[Math.max(x, y)] = Math.min(x, y);
    }
    const classes = Uint32Array.from({ length: nodes }, (_, i) => find(i));

    // Neighbours of each class, nearest first, because the pairs are in that order.
    const offsets = new Uint32Array(nodes + 1);
    for (let i = identical; i < a.length; i++) {
      offsets[classes[a[i]] + 1]++;
      offsets[classes[b[i]] + 1]++;
    }
    for (let i = 0; i < nodes; i++) offsets[i + 1] += offsets[i];
    const next = offsets.slice(), others = new Uint32Array(2 * stored.length), cosines = new Float64Array(2 * stored.length);
    for (let i = identical; i < a.length; i++) {
      const x = classes[a[i]], y = classes[b[i]], cosine = stored[i - identical];
      others[next[x]] = y; cosines[next[x]++] = cosine;
      others[next[y]] = x; cosines[next[y]++] = cosine;
    }
    return {
      read: data.read, bad: data.bad, rows: data.rows, earlier: data.earlier, nodes, classes, offsets, others, cosines,
      chain: data.removal === "chain",
      scores: data.scores.map(score => ({ name: score.name, values: new Float32Array(bytes(score.values)) })),
    };
  }

  // Counts under settings { eps: number or null, thresholds: [{ score, bound: "min" | "max", value, on }] }.
  function count(set, settings) {
    const counts = new Map([["read", set.read], ["bad", set.bad]]);
    const thresholds = settings.thresholds.filter(t => t.on);
    for (const t of thresholds) counts.set("score:" + set.scores[t.score].name, 0);
    const survives = new Uint8Array(set.rows).fill(1);
    // Rows of earlier sets are numbered first: they are in no count, stay whatever their scores, and never fall.
    let survivors = set.rows - set.earlier;
    for (const { score, bound, value } of thresholds) {
      const { name, values } = set.scores[score];
      let fell = 0;
      for (let row = set.earlier; row < set.rows; row++) {
        // A score that is not a number passes neither.
        const passes = bound === "min" ? values[row] >= value : values[row] < value;
        if (!passes && survives[row]) { survives[row] = 0; fell++; }
      }
      survivors -= fell;
      counts.set("score:" + name, counts.get("score:" + name) + fell);
    }
    const duplicates = settings.eps === null ? 0 : fallen(set, survives, 1 - settings.eps);
    counts.set("duplicates", duplicates);
    counts.set("kept", survivors - duplicates);
    return counts;
  }

  // How many survivors fall to another. Rows are numbered in order of preference.
  function fallen(set, survives, threshold) {
    const falls = new Uint8Array(set.nodes), told = new Uint8Array(set.nodes);
    let duplicates = 0;
    for (let row = 0; row < set.nodes; row++) {
      if (!survives[row]) continue;
      const own = set.classes[row], duplicate = row < set.earlier ? 0 : falls[own];
      duplicates += duplicate;
      // group: only kept rows make others fall; chain: every survivor does.
      if ((duplicate && !set.chain) || told[own]) continue;
      told[own] = 1;
      falls[own] = 1;
      for (let i = set.offsets[own]; i < set.offsets[own + 1] && set.cosines[i] >= threshold; i++) falls[set.others[i]] = 1;
    }
    return duplicates;
  }

  // A word of a command line for a POSIX shell.
  const quote = word => /^[\w@%+=:,.\/-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\\''") + "'";

  // The commands that lead from the settings of the run to others; none where they are the same.
  function commands(run, data, before, after) {
    const lines = [];
    const active = settings => settings.thresholds.filter(t => t.on).map(t => `--${t.bound} ${data.scores[t.score].name}=${t.value}`);
    const bounds = active(after).join(" ");
    if (bounds !== active(before).join(" ")) lines.push(`clipsift filter ${quote(run)} ${bounds}`.trim());
    if (after.eps !== before.eps) lines.push(`clipsift dedup ${quote(run)} ${data.dedup} --eps ${after.eps}`);
    return lines;
  }

  return { unpack, count, commands };
})();
