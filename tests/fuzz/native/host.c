/* libFuzzer's two functions over a Python callable: what it feeds is tests.fuzz.native.targets.TARGETS[target].

   The program is linked with the runtimes of libFuzzer and the sanitizers, for the instrumented modules. */
#include <Python.h>

static PyObject *target;

static void give_up(const char *what) {
    if (PyErr_Occurred())
        PyErr_Print();
    fprintf(stderr, "fuzz: %s\n", what);
    abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    PyConfig config;
    /* Signals stay libFuzzer's: its deadline comes by one. */
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0;
    config.parse_argv = 0;
    if (PyStatus_Exception(PyConfig_SetBytesString(&config, &config.program_name, getenv("EVEROPEN_FUZZ_PYTHON"))) ||
        PyStatus_Exception(Py_InitializeFromConfig(&config)))
        give_up("no Python");
    PyObject *module = PyImport_ImportModule("tests.fuzz.native.targets");
    target = module == NULL ? NULL : PyObject_CallMethod(module, "open_target", "s", getenv("EVEROPEN_FUZZ_TARGET"));
    if (target == NULL)
        give_up("no target");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size);
    PyObject *answer = bytes == NULL ? NULL : PyObject_CallOneArg(target, bytes);
    if (answer == NULL)
        give_up("the target raised");
    Py_DECREF(bytes);
    Py_DECREF(answer);
    return 0;
}
