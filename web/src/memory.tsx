// What the sandbox remembers: search it, see why a hit ranks where it does, forget it.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { Icon } from "./icons";

const COLLECTIONS: Record<string, string> = {
  user_inputs: "What you said",
  run_trajectories: "Runs",
  doc_trajectories: "Documents",
  version_snapshots: "Versions",
};
const HITS = 20;

interface Item {
  item_id: string;
  collection: string;
  source_ref: string;
  created_at: number;
  content: string;
}
interface Found {
  item: Item;
  relevance: number;
}
interface Explanation {
  shares: { term: string; origin: string; idf: number; via: string | null; decay: number; share: number }[];
  factors: Record<string, number>;
  missing: string[];
}

async function ask<T>(route: string, body: object): Promise<T> {
  const answer = await fetch(`/api/memory/${route}`, { method: "POST", body: JSON.stringify(body) });
  const said = await answer.json().catch(() => ({ error: { message: "The memory does not answer." } }));
  if (!answer.ok) throw new Error(said.error.message ?? String(said.error));
  return said.result;
}

export function Memory() {
  const query = useSignal("");
  const collection = useSignal("");
  const found = useSignal<Found[] | null>(null);
  const searched = useSignal("");
  const items = useSignal<Record<string, number>>({});
  const problem = useSignal("");

  const stats = async () => {
    try {
      items.value = (await ask<{ items: Record<string, number> }>("stats", {})).items;
    } catch (error) {
      problem.value = (error as Error).message;
    }
  };
  useEffect(() => {
    stats();
  }, []);
  const search = async () => {
    const wanted = query.value.trim();
    if (!wanted) return;
    problem.value = "";
    try {
      const names = collection.value ? [collection.value] : Object.keys(COLLECTIONS);
      const answers = await Promise.all(
        names.map((name) => ask<Found[]>("search", { collection: name, query: wanted, k: HITS })),
      );
      // Relevances of one query can be compared between collections.
      found.value = answers
        .flat()
        .sort((a, b) => b.relevance - a.relevance)
        .slice(0, HITS);
      searched.value = wanted;
      stats();
    } catch (error) {
      problem.value = (error as Error).message;
    }
  };
  const forget = async (id: string) => {
    try {
      await ask("forget", { item_ids: [id] });
      found.value = (found.value ?? []).filter((each) => each.item.item_id !== id);
      stats();
    } catch (error) {
      problem.value = (error as Error).message;
    }
  };
  const total = Object.values(items.value).reduce((a, b) => a + b, 0);
  return (
    <>
      <form
        class="searching"
        role="search"
        onSubmit={(event) => {
          event.preventDefault();
          search();
        }}
      >
        <Icon name="search" />
        <input
          data-focus
          type="search"
          aria-label="Search the memory"
          placeholder="Search what is remembered"
          value={query}
          onInput={(event) => (query.value = event.currentTarget.value)}
        />
        <select
          aria-label="Where"
          value={collection}
          onChange={(event) => (collection.value = event.currentTarget.value)}
        >
          <option value="">Everywhere</option>
          {Object.entries(COLLECTIONS).map(([name, words]) => (
            <option key={name} value={name}>
              {words}
            </option>
          ))}
        </select>
        <button type="submit" class="plain strong">
          Search
        </button>
      </form>
      {problem.value && (
        <p class="note refused" role="alert">
          {problem}
        </p>
      )}
      <div class="hits" tabIndex={0} role="region" aria-label="What was found">
        <p class="unseen" role="status">
          {found.value && `${found.value.length} found`}
        </p>
        {found.value === null && (
          <div class="empty">
            <h3>{total ? `${total.toLocaleString()} things remembered` : "Nothing is remembered yet"}</h3>
            <p>
              {total
                ? "Found by their words, with no model and no network. Ask why something ranks where it does, or have it forgotten."
                : "What you ask and what the agent does will be found here again."}
            </p>
            {total > 0 && (
              <ul class="kinds">
                {Object.entries(COLLECTIONS).map(([name, words]) => (
                  <li key={name}>
                    <b>{(items.value[name] ?? 0).toLocaleString()}</b> {words}
                  </li>
                ))}
              </ul>
            )}
          </div>
        )}
        {found.value?.length === 0 && <p class="nothing">Nothing that fits “{searched}”.</p>}
        {found.value?.map((each) => (
          <Hit key={each.item.item_id} found={each} query={searched.value} forget={forget} />
        ))}
      </div>
    </>
  );
}

function Hit({ found, query, forget }: { found: Found; query: string; forget: (id: string) => void }) {
  const { item, relevance } = found;
  const why = useSignal<Explanation | null>(null);
  const sure = useSignal(false);
  const problem = useSignal("");
  const explain = async () => {
    problem.value = "";
    try {
      why.value = why.value ? null : await ask<Explanation>("explain", { item_id: item.item_id, query });
    } catch (error) {
      problem.value = (error as Error).message;
    }
  };
  const percent = Math.round(relevance * 100);
  return (
    <article class="hit" aria-label={`Found, relevance ${percent} of 100`}>
      <div class="meta">
        <meter min={0} max={1} value={relevance} aria-label="Relevance" />
        <span>{COLLECTIONS[item.collection] ?? item.collection}</span>
        <time dateTime={new Date(item.created_at * 1000).toISOString()}>
          {new Date(item.created_at * 1000).toLocaleString()}
        </time>
      </div>
      <p class="content">{item.content.length > 600 ? `${item.content.slice(0, 600)}…` : item.content}</p>
      {item.source_ref && <p class="source">{item.source_ref}</p>}
      <div class="acts">
        <button type="button" class="plain" aria-expanded={why.value !== null} onClick={explain}>
          Why?
        </button>
        {sure.value ? (
          <>
            <span>Forget it for good?</span>
            <button type="button" class="plain bad" onClick={() => forget(item.item_id)}>
              Forget
            </button>
            <button type="button" class="plain" onClick={() => (sure.value = false)}>
              Keep
            </button>
          </>
        ) : (
          <button type="button" class="plain" onClick={() => (sure.value = true)}>
            Forget…
          </button>
        )}
      </div>
      {problem.value && (
        <p class="note refused" role="alert">
          {problem}
        </p>
      )}
      {why.value && <Why why={why.value} />}
    </article>
  );
}

const ORIGINS: Record<string, string> = { query: "your word", pair: "side by side", feedback: "in the best hits" };

function Why({ why }: { why: Explanation }) {
  const most = Math.max(...why.shares.map((each) => each.share), 1e-9);
  const factors = Object.entries(why.factors).filter(([, value]) => Math.abs(value - 1) > 0.005);
  return (
    <div class="why">
      <table>
        <caption class="unseen">What each word gave</caption>
        <thead>
          <tr>
            <th scope="col">Word</th>
            <th scope="col">Found</th>
            <th scope="col">Share</th>
          </tr>
        </thead>
        <tbody>
          {why.shares.map((each) => (
            <tr key={`${each.term} ${each.origin}`}>
              <th scope="row">{each.term}</th>
              <td>
                {ORIGINS[each.origin] ?? each.origin}
                {each.via !== null && ", in a neighbour"}
              </td>
              <td>
                <meter min={0} max={most} value={each.share} aria-label={`Share of ${each.term}`} />{" "}
                {each.share.toFixed(2)}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {factors.length > 0 && <p>Times {factors.map(([name, value]) => `${name} ${value.toFixed(2)}`).join(" · ")}</p>}
      {why.missing.length > 0 && <p>Not in it: {why.missing.join(", ")}</p>}
    </div>
  );
}
