// A question in a dialog: for a name, or whether to go on.
import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

export interface Question {
  title: string;
  label: string;
  value: string | null;
  verb: string;
  bad?: boolean;
  act: (value: string) => Promise<void>;
}

export function Ask({ id, question, done }: { id: string; question: Signal<Question | null>; done: () => void }) {
  const { title, label, value, verb, bad, act } = question.value!;
  const dialog = useRef<HTMLDialogElement>(null);
  const input = useRef<HTMLInputElement>(null);
  const problem = useSignal("");
  useEffect(() => {
    dialog.current?.showModal();
    const dot = value?.lastIndexOf(".") ?? -1;
    input.current?.setSelectionRange(0, dot > 0 ? dot : (value?.length ?? 0));
  }, []);
  return (
    <dialog ref={dialog} aria-labelledby={`ask-${id}`} onClose={() => (question.value = null)}>
      <form
        onSubmit={async (event) => {
          event.preventDefault();
          try {
            await act(input.current?.value ?? "");
            dialog.current?.close();
            done();
          } catch (error) {
            problem.value = (error as Error).message;
          }
        }}
      >
        <h3 id={`ask-${id}`}>{title}</h3>
        {value !== null && (
          <label>
            {label}
            <input ref={input} required defaultValue={value} autocomplete="off" spellcheck={false} />
          </label>
        )}
        {problem.value && (
          <p class="note refused" role="alert">
            {problem}
          </p>
        )}
        <div class="acts">
          <button type="button" class="plain" onClick={() => dialog.current?.close()}>
            Cancel
          </button>
          <button type="submit" class={`plain strong ${bad ? "bad" : ""}`}>
            {verb}
          </button>
        </div>
      </form>
    </dialog>
  );
}
