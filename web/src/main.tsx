import { render } from "preact";
import { open } from "./connection";
import { Desktop } from "./desktop";

render(<Desktop />, document.body);
open();
