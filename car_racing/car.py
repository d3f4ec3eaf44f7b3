"""Gymnasium's car, its arithmetic done on plain floats."""

import math
from typing import Any

from gymnasium.envs.box2d.car_dynamics import ENGINE_POWER, FRICTION_LIMIT, SIZE, WHEEL_MOMENT_OF_INERTIA, Car


class QuickCar(Car):
    """Gymnasium's car, its arithmetic done on plain floats.

    Half of what a frame of physics costs goes into NumPy's functions on single numbers. Here is the same arithmetic in
    the same order without them: every result is equal to the last bit. See `Car.step` for what the physics means.
    """

    def gas(self, gas: float) -> None:
        gas = min(max(float(gas), 0.0), 1.0)
        for w in self.wheels[2:4]:
            w.gas += min(gas - w.gas, 0.1)

    def brake(self, b: float) -> None:
        super().brake(float(b))

    def steer(self, s: float) -> None:
        super().steer(float(s))

    def step(self, dt: float) -> None:
        for w in self.wheels:
            error = w.steer - w.joint.angle
            w.joint.motorSpeed = math.copysign(min(50.0 * abs(error), 3.0), error)

            grass = not w.tiles
            friction_limit = FRICTION_LIMIT * 0.6
            for tile in w.tiles:
                friction_limit = max(friction_limit, FRICTION_LIMIT * tile.road_friction)

            forw = w.GetWorldVector((0, 1))
            forw_x, forw_y = forw.x, forw.y
            # What GetWorldVector((1, 0)) says, without the call.
            side_x, side_y = forw_y, -forw_x
            v = w.linearVelocity
            v_x, v_y = v.x, v.y
            vf = forw_x * v_x + forw_y * v_y
            vs = side_x * v_x + side_y * v_y

            omega = w.omega
            omega += dt * ENGINE_POWER * w.gas / WHEEL_MOMENT_OF_INERTIA / (abs(omega) + 5.0)
            self.fuel_spent += dt * ENGINE_POWER * w.gas
            if w.brake >= 0.9:
                omega = 0.0
            elif w.brake > 0:
                omega -= math.copysign(min(15 * w.brake, abs(omega)), omega)
            w.phase += omega * dt

            f_force = (-vf + omega * w.wheel_rad) * (205000 * SIZE * SIZE)
            p_force = -vs * (205000 * SIZE * SIZE)
            force = math.sqrt(f_force * f_force + p_force * p_force)
            self._leave_skid_trace(w, force, friction_limit, grass)
            if force > friction_limit:
                f_force = f_force / force * friction_limit
                p_force = p_force / force * friction_limit
            w.omega = omega - dt * f_force * w.wheel_rad / WHEEL_MOMENT_OF_INERTIA
            w.ApplyForceToCenter((p_force * side_x + f_force * forw_x, p_force * side_y + f_force * forw_y), True)

    def _leave_skid_trace(self, w: Any, force: float, friction_limit: float, grass: bool) -> None:
        if force <= 2.0 * friction_limit:
            w.skid_start = None
            w.skid_particle = None
        elif w.skid_particle and w.skid_particle.grass == grass and len(w.skid_particle.poly) < 30:
            w.skid_particle.poly.append((w.position[0], w.position[1]))
        elif w.skid_start is None:
            w.skid_start = w.position
        else:
            w.skid_particle = self._create_particle(w.skid_start, w.position, grass)
            w.skid_start = None
