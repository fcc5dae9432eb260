"""Text generation in a child process: settings, protocol, the engines and the client."""
