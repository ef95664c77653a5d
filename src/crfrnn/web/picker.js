// Hands a file that is chosen or dropped to the server, or the name of an example. `props.most` is in bytes; `props.value` is
// what is said about the file: here while it is sent, then by the server.
const input = () => element.querySelector("input[type=file]");
const show = () => { element.querySelector(".note").textContent = props.value; };
const say = (text) => {
  props.value = text;
  show();
};

function send(file) {
  if (!file) return;
  if (file.size > props.most) {
    const megabytes = (bytes) => Math.round(bytes / 1e6);
    say(`${file.name} has ${megabytes(file.size)} MB; a file may have ${megabytes(props.most)} MB`);
    return;
  }
  say(`sending ${file.name}`);
  const reader = new FileReader();
  reader.onerror = () => say(`${file.name} cannot be read`);
  reader.onload = () => trigger("sent", { name: file.name, data: reader.result.split(",")[1] || "" });
  reader.readAsDataURL(file);
}

element.addEventListener("change", (event) => {
  if (event.target !== input()) return;
  send(event.target.files[0]);
  event.target.value = "";  // the same file may be chosen again
});
element.addEventListener("dragover", (event) => event.preventDefault());
element.addEventListener("drop", (event) => {
  event.preventDefault();
  send(event.dataTransfer.files[0]);
});
element.addEventListener("click", (event) => {
  const example = event.target.closest("[data-example]");
  if (!example) return;
  say(`opening ${example.dataset.example}`);
  trigger("sent", { example: example.dataset.example });
});
watch("value", show);
show();
